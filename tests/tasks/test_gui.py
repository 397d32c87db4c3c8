# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from r1_mllm.data.mixture.loading import named_task
from r1_mllm.tasks import get_task

TASK = get_task("gui")


def test_a_vlm_r1_row_keeps_its_two_pictures_in_order():
    row = {
        "id": 7,
        "image": ["before.png", "after.png"],
        "accu_reward_method": "all_match",
        "conversations": [
            {"from": "human", "value": "<image><image>Which defect do you see?"},
            {"from": "gpt", "value": "<answer>No Defect</answer>"},
        ],
    }
    example = TASK.example(row, "x:1", "shots")
    assert example.images == ("shots/before.png", "shots/after.png")
    assert (example.question, example.answer, named_task(row)) == ("Which defect do you see?", "No Defect", "gui")
    (turn,) = TASK.messages(example)
    assert [part["type"] for part in turn["content"]] == ["image", "image", "text"]


@pytest.mark.parametrize("pictures", [[], ["a.png"], ["a.png", "b.png", "c.png"]])
def test_two_pictures_are_compared(pictures):
    with pytest.raises(ValueError, match=rf"x:1: {len(pictures)} pictures; this task compares two"):
        TASK.example({"problem": "q", "solution": "No Defect", "image": pictures}, "x:1")


def test_wrong_names_come_from_the_options():
    row = {
        "problem": "q",
        "solution": "No defect",
        "image": ["a", "b"],
        "options": ["no defect.", "Overlap", "Blank page"],
    }
    wrong = TASK.distractors(TASK.example(row, "x:1"), np.random.default_rng(0), 5)
    assert sorted(wrong) == ["Blank page", "Overlap"]
