# SPDX-License-Identifier: Apache-2.0
"""Curriculum files: what they mean, what they refuse, and the flags that scripts of predecessors bring along."""

from pathlib import Path

import pytest
import yaml

from r1_mllm.config import GrpoConfig
from r1_mllm.config.curriculum import read
from r1_mllm.config.flags import parse
from r1_mllm.runtime import Stop

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"


def written(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


def test_common_settings_stage_settings_and_typed_flags_win_in_this_order(tmp_path):
    path = written(
        tmp_path,
        "output_dir: out\ncommon: {learning_rate: 2e-6, num_generations: 3, save_steps: 7}\nstages:\n"
        "- {name: one, form: [judge, choice], num_generations: 4}\n- {name: two, start_from: best, max_steps: 5}\n",
    )
    one, two = read(path, ["--learning_rate", "3e-6", "--max_pixels=401408"]).stages
    assert (one.grpo.optimizer.learning_rate, one.grpo.rollout.num_generations) == (3e-6, 4)
    assert (two.grpo.rollout.num_generations, two.grpo.data.max_pixels) == (3, 401408)
    assert (one.grpo.data.form, two.grpo.data.form) == (("judge", "choice"), ("open",))
    assert (one.grpo.training.output_dir, two.grpo.training.output_dir) == ("out/one", "out/two")
    assert (one.grpo.training.save_total_limit, one.grpo.training.eval_steps) == (None, 7)  # "two" wants the best one
    assert (two.grpo.training.save_total_limit, two.grpo.training.eval_steps) == (2, None)
    assert read(path, ["--output_dir", "mine"]).stages[0].grpo.training.output_dir == "mine/one"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stage: []", "unknown key 'stage'; did you mean 'stages'"),
        ("stages: []", "`stages` must be a list"),
        ("stages: [{form: judge}]", "stage 1: name None must be a word"),
        ("stages: [{name: a}, {name: a}]", "stage 2: name 'a' must be a word of its own"),
        ("stages: [{name: ../a}]", "must be a word"),
        ("stages: [{name: a, start_from: first}]", "start_from 'first': choose last or best"),
        ("stages: [{name: a, num_generation: 4}]", "unknown flag --num_generation; did you mean --num_generations"),
        ("stages: [{name: a}]\nembedded: 3", "`embedded` is '3'"),
        ("stages: [{name: a}]\nembedded: {tasks: rec}", "unknown flag --tasks; did you mean --task"),
        ("stages: [", "is not YAML"),
    ],
)
def test_wrong_files_are_refused_by_name(tmp_path, text, told):
    with pytest.raises(Stop) as refusal:
        read(written(tmp_path, text))
    assert told in str(refusal.value)


def test_the_published_curricula_are_what_the_predecessor_ran():
    small, large = (read(CONFIGS / f"curriculum_{size}.yaml") for size in ("3b", "7b"))
    assert [stage.grpo.rollout.num_generations for stage in small.stages] == [4, 2, 4]
    assert [stage.grpo.rollout.num_generations for stage in large.stages] == [4, 4, 4]
    assert [stage.grpo.training.max_steps for stage in small.stages] == [600, 500, -1]
    for config, model in ((small, "3B"), (large, "7B")):
        assert [stage.grpo.training.num_train_epochs for stage in config.stages] == [1, 1, 2]
        assert [stage.grpo.data.form for stage in config.stages] == [("judge",), ("choice",), ("open",)]
        for stage in config.stages:
            grpo = stage.grpo
            assert grpo.model.model_name_or_path == f"Qwen/Qwen2.5-VL-{model}-Instruct"
            assert (grpo.data.max_prompt_length, grpo.rollout.max_completion_length) == (2048, 256)
            assert (grpo.optimizer.learning_rate, grpo.objective.beta, grpo.rollout.temperature) == (1e-6, 0.04, 1.0)
            training = grpo.training
            assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (1, 1)
            assert (training.save_steps, training.logging_steps, grpo.data.data_seed) == (100, 1, 42)


@pytest.mark.parametrize("stage", ["judge", "choice", "open"])
def test_the_mixtures_list_no_file_twice_and_train_on_no_test_file(stage):
    content = yaml.safe_load((CONFIGS / "data" / f"curriculum_{stage}.yaml").read_text())
    names = [entry["json_path"] for entry in content["train_datasets"]]
    assert len(set(names)) == len(names) and not any("_test" in name for name in names)
    assert all("_test" in entry["json_path"] for entry in content.get("val_datasets", ()))
    assert any("detection" in name for name in names)


def test_the_predecessors_flags_are_taken_verbatim(tmp_path, capsys):
    (tmp_path / "zero3.json").write_text('{"zero_optimization": {"stage": 3, "overlap_comm": true}}')
    flags = f"""--deepspeed {tmp_path}/zero3.json --output_dir out --model_name_or_path Qwen2.5-VL-3B-Instruct
        --dataset_name stage1_judge/3_tasks_4000.yaml --image_root images --max_prompt_length 2048
        --num_generations 4 --per_device_train_batch_size 1 --gradient_accumulation_steps 1 --logging_steps 1
        --bf16 --torch_dtype bfloat16 --data_seed 42 --report_to wandb --gradient_checkpointing false
        --attn_implementation flash_attention_2 --num_train_epochs 1 --run_name judge --save_steps 100
        --save_only_model true --max_pixels 401408"""
    config = parse(GrpoConfig, ["--form", "judge", *flags.split()], "stage")
    assert config.training.save_only_model and config.training.bf16 and not config.model.recompute
    assert (config.data.data_seed, config.data.max_pixels, config.training.report_to) == (42, 401408, ("wandb",))
    told = capsys.readouterr().err
    assert "ZeRO stage 3, mapped to --sharding stage3" in told and "--sharding" in told


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_a_deepspeed_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "zero.json"
    if content:
        path.write_text(content)
    with pytest.raises(Stop, match=r"zero\.json: cannot be read"):
        parse(GrpoConfig, ["--deepspeed", str(path)], "stage")


def test_a_deepspeed_file_without_zero_shards_nothing(tmp_path, capsys):
    path = tmp_path / "zero.json"
    path.write_text("{}")
    parse(GrpoConfig, ["--deepspeed", str(path)], "stage")
    assert "ZeRO stage 0, nothing is sharded" in capsys.readouterr().err
