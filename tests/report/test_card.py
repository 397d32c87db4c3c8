# SPDX-License-Identifier: Apache-2.0
"""A model card holds the run's numbers and no path of the machine."""

import json

import pytest
import yaml

from r1_mllm.report.card import run_of, write_card


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "work" / "run-7"
    (folder / "checkpoint-20").mkdir(parents=True)
    steps = [{"step": 5, "reward": 0.25, f"rewards/{tmp_path}/mine.py:score/mean": 1.5}, {"step": 20, "reward": 0.75}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    for name, right, step in (("before", [1, 0, 0, 0], 0), ("after", [1, 1, 1, 0], 20)):
        rows = [{"id": str(i), "correct": correct} for i, correct in enumerate(right)]
        accuracy = 25.0 * sum(right)
        content = {"accuracy": accuracy, "interval": [accuracy - 3, accuracy + 4], "num": 4, "step": step}
        (folder / f"eval_{name}.json").write_text(json.dumps({**content, "results": rows}))
    settings = {
        "model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct",
        "dataset_name": f"{tmp_path}/data/rows.jsonl",
        "reward_funcs": ["accuracy", f"{tmp_path}/mine.py:score"],
        "loss_type": "dapo",
        "output_dir": str(folder),
    }
    (folder / "args.yaml").write_text(yaml.safe_dump(settings))
    return folder


def test_the_card_tells_what_was_measured_and_how(run, tmp_path):
    out = tmp_path / "my-model"
    out.mkdir()
    assert run_of(run / "checkpoint-20") == run
    text = write_card(out, "Qwen/other", "bfloat16", run).read_text()
    about = yaml.safe_load(text.split("---")[1])
    assert about["base_model"] == "Qwen/Qwen2.5-VL-3B-Instruct" and about["tags"] == ["r1_mllm", "grpo"]
    assert "# my-model" in text and "weights in bfloat16" in text
    assert "| before (step 0) | 25.00 % | 22.00 to 29.00 | 4 |" in text
    assert "| after (step 20) | 75.00 % | 72.00 to 79.00 | 4 |" in text
    assert "same 4 rows: +50.00 points" in text
    assert "| reward | 0.25 (step 5) | 0.75 (step 20) |" in text
    assert "mine.py:score" in text and "rows.jsonl" in text
    assert str(tmp_path) not in text


def test_a_model_without_a_run_has_a_card_without_numbers(tmp_path):
    assert run_of(tmp_path) is None
    text = write_card(tmp_path, str(tmp_path / "base"), "float32", None).read_text()
    assert "No evaluation was recorded." in text and "Started from base;" in text
    assert str(tmp_path.parent) not in text


def test_where_no_verdict_changed_no_interval_is_claimed(run, tmp_path):
    (run / "eval_after.json").write_text((run / "eval_before.json").read_text())
    (tmp_path / "out").mkdir()
    text = write_card(tmp_path / "out", "base", "float32", run).read_text()
    assert "Difference on the same 4 rows: none, no verdict changed." in text and "interval +0.00" not in text
