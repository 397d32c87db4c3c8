# SPDX-License-Identifier: Apache-2.0
"""Detection and GUI defects through the trainer and the evaluator, on a tiny real model and rendered scenes."""

import json
from pathlib import Path

import pytest

from r1_mllm.config import DataConfig, GrpoConfig, ModelConfig, RewardConfig, RolloutConfig, TrainingConfig
from r1_mllm.data.synthetic import write_splits
from r1_mllm.evaluation.command import main
from r1_mllm.training import grpo

CHECKPOINT = Path(__file__).resolve().parents[2] / "tests/golden/cases/e2e/checkpoint"


@pytest.mark.parametrize("task", ["open_detection", "gui"])
def test_a_step_of_each_task(task, tmp_path):
    train, _ = write_splits(task, 4, tmp_path / "scenes", num_test=2, seed=5, container="jsonl", side=56)
    config = GrpoConfig(
        model=ModelConfig(str(CHECKPOINT)),
        data=DataConfig(dataset_name=str(train)),  # the rows name their task
        rollout=RolloutConfig(2, 4),
        reward=RewardConfig(("accuracy", "format", "repetition")),
        training=TrainingConfig(str(tmp_path / "run"), max_steps=1, report_to=("none",)),
    )
    grpo.train(config)
    lines = [json.loads(line) for line in (tmp_path / "run/completions.jsonl").read_text().splitlines()]
    assert {line["task"] for line in lines} == {task} and len(lines) == 4
    assert {len(line.get("images", [line["image"]])) for line in lines} == {2 if task == "gui" else 1}
    words = ["--model_path", str(CHECKPOINT), "--model_name", "tiny", "--max_new_tokens", "2"]
    words += ["--data_root", str(tmp_path / "scenes"), "--test_datasets", "test", "--logs_dir", str(tmp_path / "logs")]
    main("", words, prog="r1-mllm eval")
    result = json.loads((tmp_path / f"logs/{task}_results_test_tiny_r1_100.json").read_text())
    assert (result["task"], result["num"]) == (task, 2)
    expected = {"micro_f1_50", "map", "ap50", "ap75", "ap_per_label"} if task == "open_detection" else set()
    assert set(result["metrics"]) == expected
