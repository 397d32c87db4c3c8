# SPDX-License-Identifier: Apache-2.0
"""The embedded rejection fine-tuning, in miniature: a model that can count to one keeps its answers and learns them."""

import json

import pytest

from r1_mllm import cli


@pytest.mark.slow
def test_good_answers_are_kept_and_learnt_and_a_second_call_has_nothing_left_to_do(tmp_path, capsys):
    words = ["quickstart", "reject", "--smoke", "--output_dir", str(tmp_path / "run")]
    cli.main(words)
    folder = tmp_path / "run"
    kept = [json.loads(line) for line in (folder / "reject/messages.jsonl").read_text().splitlines()]
    assert len(kept) == 12 and kept[0]["messages"][1]["content"] == "<think>1</think><answer>1</answer>"
    assert kept[0]["provenance"]["model"].endswith("warm_start") and kept[0]["provenance"]["score"] == 100.0
    assert [json.loads((folder / f"sft/eval_{when}.json").read_text())["num"] for when in ("before", "after")] == [8, 8]
    steps = [json.loads(line) for line in (folder / "sft/metrics.jsonl").read_text().splitlines()]
    assert steps[-1]["step"] == 3 and (folder / "sft/final/model.safetensors").is_file()
    capsys.readouterr()
    cli.main(words)
    assert "has these samples already" in capsys.readouterr().out
