# SPDX-License-Identifier: Apache-2.0
import dataclasses
import os

import pytest

from r1_mllm.config import EvalConfig, GrpoConfig, RewardConfig, SftConfig, flatten, save_args
from r1_mllm.config.flags import leaf_types, parse
from r1_mllm.config.legacy_flags import LEGACY, RENAMED, VALUES
from r1_mllm.runtime import USAGE, Stop

KNOWN_SCRIPT = """
--model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct --dataset_name data_config/rec.yaml --image_root data/REC
--output_dir work_dirs/x --do_train --max_prompt_length 1024 --max_completion_length 256 --num_generations 8
--max_steps 500 --num_train_epochs 1 --num_train_epochs 1 --max_pixels 401408 --freeze_vision False --recompute True
--attn_implementation eager --bf16 True --fp16 False --fp16_opt_level O2 --amp_master_grad 1 --logging_steps 1
--report_to visualdl --save_strategy steps --save_steps 100 --save_total_limit 1 --logging_dir work_dirs/x/logs
--dataloader_num_workers 8 --overwrite_output_dir True --sharding stage2 --tensor_parallel_degree=1
--sharding_parallel_degree=8 --pipeline_parallel_degree 1 --sep_parallel_degree 1
--hybrid_parallel_topo_order sharding_first --run_name mine --per_device_train_batch_size 2
--gradient_accumulation_steps 1 --ds3_gather_for_generation True --sync_ref_model False
""".split()


def grpo(*argv):
    return parse(GrpoConfig, argv, "r1-mllm grpo")


def test_the_flags_of_the_known_training_script_parse_verbatim(capsys):
    config = grpo(*KNOWN_SCRIPT)
    assert (config.data.max_pixels, config.training.max_steps, config.model.recompute) == (401408, 500, True)
    assert (config.training.bf16, config.training.fp16, config.model.freeze_vision) == (True, False, False)
    assert (config.model.attn_implementation, config.training.save_total_limit) == ("eager", 1)
    assert (config.training.report_to, config.training.logging_dir) == (("visualdl",), "work_dirs/x/logs")
    assert (config.sharding.sharding, config.sharding.sharding_parallel_degree) == ("stage2", 8)
    told = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("note: --") for line in told) == 8
    assert "note: --amp_master_grad 1: gradients and optimizer state are float32 always" in told


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--bf16"], True),
        (["--bf16", "True"], True),
        (["--bf16=true"], True),
        (["--bf16", "1"], True),
        (["--bf16", "yes"], True),
        (["--bf16", "False"], False),
        (["--bf16=false"], False),
        (["--bf16", "0"], False),
        (["--no_bf16"], False),
        (["--bf16", "--recompute"], True),
        (["--bf16", "True", "--bf16", "False"], False),
    ],
)
def test_switches_take_every_spelling_in_use(words, expected):
    assert grpo(*words).training.bf16 is expected


def test_hyphens_are_underscores_and_values_keep_theirs():
    config = grpo("--max-steps", "7", "--image-root=my-data", "--learning-rate", "1e-6")
    assert (config.training.max_steps, config.data.image_root, config.optimizer.learning_rate) == (7, "my-data", 1e-6)


def test_lists_are_separated_by_spaces_or_commas():
    config = grpo("--reward_funcs", "accuracy", "mine.py:fn", "--reward_weights", "1", "0.5", "--report_to=a,b")
    assert config.reward.reward_funcs == ("accuracy", "mine.py:fn")
    assert config.reward.reward_weights == (1.0, 0.5) and config.training.report_to == ("a", "b")


def test_a_flag_given_twice_counts_the_last_time_also_for_lists():
    config = grpo("--num_generations", "4", "--reward_funcs", "a", "b", "--num-generations=6", "--reward_funcs", "c")
    assert config.rollout.num_generations == 6 and config.reward.reward_funcs == ("c",)


def test_negative_numbers_none_and_texts_that_look_like_flags_are_values():
    config = grpo("--max_steps", "-1", "--save_total_limit", "None", "--system_prompt=--be brief")
    assert config.training.max_steps == -1 and config.training.save_total_limit is None
    assert config.data.system_prompt == "--be brief"


def test_values_of_other_programs_are_translated():
    config = grpo("--gradient_checkpointing", "true", "--attn_implementation", "sdpa", "--scale_rewards", "False")
    assert (config.model.recompute, config.model.attn_implementation) == (True, "auto")
    assert config.objective.scale_rewards == "none"
    assert grpo("--resume_from_checkpoint", "True").training.resume_from_checkpoint == "auto"


def test_missing_images_is_another_name_of_the_data_policy():
    assert grpo("--missing_images", "skip").data.data_policy == "quarantine"
    assert grpo("--missing_images=error").data.data_policy == "strict"


def test_yaml_numbers_mean_what_they_say_and_typed_flags_win(tmp_path, monkeypatch):
    monkeypatch.setenv("R1_TEST_VALUE", "before")
    file = tmp_path / "run.yaml"
    file.write_text(
        "learning_rate: 1e-6\nnum_generations: 4\nbf16: true\nreward_funcs: [accuracy, format]\n"
        "save_total_limit: null\nsystem_prompt: on\nrun_name: 0010\n"
        "model:\n  freeze_vision: yes\nenv:\n  R1_TEST_VALUE: 7\n"
    )
    config = grpo("--num_generations", "6", "--config", str(file))
    assert config.optimizer.learning_rate == 1e-6 and config.rollout.num_generations == 6
    assert config.training.bf16 and config.model.freeze_vision and config.training.save_total_limit is None
    assert os.environ["R1_TEST_VALUE"] == "7"
    assert (config.data.system_prompt, config.training.run_name) == ("on", "0010")  # texts, not true and eight
    assert config.reward.reward_funcs == ("accuracy", "format")


def test_saved_settings_read_back_equal(tmp_path):
    config = grpo("--learning_rate", "3e-7", "--reward_weights", "1", "2", "--system_prompt", "a: b", "--bf16")
    save_args(config, tmp_path / "args.yaml")
    assert grpo("--config", str(tmp_path / "args.yaml")) == config


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--num_generation", "3"], "did you mean --num_generations?"),
        (["--lerning-rate", "3"], "did you mean --learning_rate?"),
        (["--bf16", "maybe"], "--bf16 is a switch"),
        (["--max_steps", "3", "4"], "--max_steps takes one value, got 2"),
        (["--max_steps"], "--max_steps takes one value, got 0"),
        (["stray"], "unexpected argument 'stray'"),
        (["--pipeline_parallel_degree", "2"], "not supported; each device holds the whole model"),
        (["--use_dora"], "not supported"),
        (["--config", "nowhere.yaml"], "cannot be read"),
    ],
)
def test_wrong_input_is_named_with_its_cure(words, told):
    with pytest.raises(Stop, match=None) as refusal:
        grpo(*words)
    assert told in str(refusal.value) and refusal.value.code == USAGE


def test_a_key_of_the_yaml_file_is_checked_like_a_flag(tmp_path):
    (tmp_path / "run.yaml").write_text("num_generation: 4\n")
    with pytest.raises(Stop, match="did you mean --num_generations"):
        grpo("--config", str(tmp_path / "run.yaml"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--num_generations", "1"], "at least 2"),
        (["--loss_type", "gro"], "invalid choice 'gro'"),
        (["--beta", "x"], "could not convert"),
        (["--reward_funcs", "a", "b", "--reward_weights", "1"], "1 weights for 2"),
        (["--bf16", "--fp16"], "choose one"),
        (["--temperature", "0"], "above 0"),
        (["--tokens_per_pack", "0"], "tokens_per_pack 0: must be at least 1"),
    ],
)
def test_settings_that_cannot_work_end_the_program_before_anything_is_loaded(words, told, capsys):
    with pytest.raises(SystemExit) as ended:
        grpo(*words)
    seen = capsys.readouterr()
    assert ended.value.code == USAGE and told in " ".join((seen.err + seen.out).replace("│", " ").split())


def test_settings_are_checked_however_they_are_made():
    with pytest.raises(ValueError, match="at least one reward"):
        GrpoConfig(reward=RewardConfig(reward_funcs=()))


def test_every_setting_has_a_name_of_its_own():
    total = sum(len(dataclasses.fields(field.default_factory)) for field in dataclasses.fields(GrpoConfig))
    assert len(flatten(GrpoConfig())) == len(leaf_types(GrpoConfig)) == total


def test_no_flag_of_another_program_hides_one_of_ours():
    ours = leaf_types(GrpoConfig)
    assert not set(ours) & set(LEGACY) and not set(ours) & set(RENAMED)
    assert set(RENAMED.values()) <= {*ours, *leaf_types(EvalConfig), *leaf_types(SftConfig)}
    assert {name for name, _ in VALUES} <= set(ours)
