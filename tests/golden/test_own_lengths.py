# SPDX-License-Identifier: Apache-2.0
"""Every hand-made row of tests/golden/own/length.jsonl: what a completion of a length earns."""

import json
from pathlib import Path

import numpy as np
import pytest

from r1_mllm import rewards
from r1_mllm.config import RewardConfig
from r1_mllm.records import Completion, Example, Grade, Group, Prompt

ROWS = [json.loads(line) for line in (Path(__file__).parent / "own/length.jsonl").read_text().splitlines()]


def group(rows):
    """The rows as completions of one group whose grades are known; the texts are far longer than their tokens."""
    prompt = Prompt(np.zeros(0, np.int64), np.zeros((3, 0), np.int64), 0)
    done = [
        Completion(
            np.zeros(r["num_tokens"], np.int64), np.zeros(r["num_tokens"], np.float32), "a" * 5000, r["finished"]
        )
        for r in rows
    ]
    grades = [Grade(float(row["correct"]), row["correct"], "exact") for row in rows]
    return Group(Example("counting", "", 3), prompt, done, grades=grades)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_a_length_earns_what_its_row_says(row):
    found = rewards.REWARDS[row["reward"]](group([row]), RewardConfig(**row["settings"]))
    assert found.tolist() == pytest.approx([row["value"]], abs=1e-12), row["why"]


def test_completions_of_a_group_are_paid_one_by_one():
    chosen = [row for row in ROWS if row["reward"] == "token_bonus" and not row["settings"]]
    found = rewards.token_bonus(group(chosen), RewardConfig())
    assert found.tolist() == pytest.approx([row["value"] for row in chosen])
