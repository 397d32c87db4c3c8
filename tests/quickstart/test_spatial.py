# SPDX-License-Identifier: Apache-2.0
"""What scripts/run_grpo_sat.sh and run_sft_sat.sh run on a machine without a GPU, in miniature."""

import json

import pytest

from r1_mllm.cli import main


@pytest.mark.slow
def test_grpo_on_rendered_spatial_scenes(tmp_path):
    main(["quickstart", "--task", "spatial", "--smoke", "--output_dir", str(tmp_path)])
    rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert len(rows) == 4 * 4 * 4 and {row["task"] for row in rows} == {"spatial"}
    after = json.loads((tmp_path / "eval_after.json").read_text())["results"]
    assert len(after) == 32 and all(row["ground_truth"] in row["question"] for row in after)
    assert "Length and self-checks" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_supervised_steps_on_rendered_spatial_scenes(tmp_path):
    main(["quickstart", "sft", "--task", "spatial", "--smoke", "--output_dir", str(tmp_path)])
    lines = [json.loads(line) for line in (tmp_path / "data" / "train.messages.jsonl").read_text().splitlines()]
    assert len(lines) == 48 and all(line["messages"][1]["content"].startswith("<think>") for line in lines)
    assert (tmp_path / "final" / "model.safetensors").is_file()
