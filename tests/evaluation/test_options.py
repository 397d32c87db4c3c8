# SPDX-License-Identifier: Apache-2.0
import pytest

from r1_mllm.evaluation.options import parse

NEEDED = ["--model_name", "M", "--model_path", "p", "--data_root", "d", "--image_root", "i"]


def test_every_flag_of_the_predecessor_is_taken():
    words = "--test_datasets a b c --batch_size 4 --sample_num 7 --steps 300 --method baseline --seed 1".split()
    config = parse("", [*NEEDED, *words, "--dtype", "float16", "--attn_implementation", "eager"])
    assert (config.model_name, config.model_path, config.data_root, config.image_root) == ("M", "p", "d", "i")
    assert config.test_datasets == ("a", "b", "c")
    assert (config.batch_size, config.sample_num, config.steps, config.seed) == (4, 7, 300, 1)
    assert (config.method, config.dtype, config.attn_implementation) == ("baseline", "float16", "eager")


def test_defaults_are_the_predecessors():
    config = parse("", NEEDED, task="rec")
    assert (config.test_datasets, config.batch_size, config.sample_num) == (("refgta_subsample",), 32, 500)
    assert (config.steps, config.method, config.seed, config.task) == (100, "r1", 42, "rec")


def test_a_flag_given_twice_counts_the_last_time():
    words = ["--model_name", "N", "--test_datasets", "a", "b", "--test_datasets", "c"]
    config = parse("", [*NEEDED, *words])
    assert (config.model_name, config.test_datasets) == ("N", ("c",))


@pytest.mark.parametrize("words", [["--sample-num", "3"], ["--sample_num=3"], ["--sample-num=3"]])
def test_hyphens_and_equal_signs_are_fine(words):
    assert parse("", [*NEEDED, *words]).sample_num == 3


@pytest.mark.parametrize("words, value", [([], False), (["--overwrite"], True), (["--overwrite", "false"], False)])
def test_a_switch_may_stand_alone_or_have_a_value(words, value):
    assert parse("", [*NEEDED, *words]).overwrite is value


def test_a_typo_is_refused_with_the_nearest_name(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("", [*NEEDED, "--sample_nums", "3"])
    assert stop.value.code == 2
    assert "did you mean --sample_num?" in capsys.readouterr().err


def test_a_missing_flag_is_named(capsys):
    with pytest.raises(SystemExit):
        parse("", ["--model_name", "M"])
    assert "--image_root" in capsys.readouterr().err


def test_help_lists_the_flags(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("what it does", ["--help"])
    told = capsys.readouterr().out
    assert stop.value.code == 0 and "--test_datasets" in told and "what it does" in told
