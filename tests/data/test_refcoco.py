# SPDX-License-Identifier: Apache-2.0
"""scripts/preprocess_refcoco.py on conversations and on REC annotations."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from r1_mllm.data import refcoco
from r1_mllm.tasks import get_task

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "preprocess_refcoco.py"
LEAD = "<image>Please provide the bounding box coordinate of the region this sentence describes: "


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        (LEAD + "the man on the left.", "the man on the left"),
        (LEAD + "a sign: exit 5.", "a sign: exit 5"),
        ("<image>the red mug.", "the red mug"),
        ("<image>mug: red", "mug: red"),
        ("Find the object of this caption: mr. t.", "mr. t"),
    ],
)
def test_the_phrase_is_found_with_and_without_an_instruction(content, caption):
    row = {"messages": [{"role": "user", "content": content}]}
    assert refcoco.caption_of(row, "f:1") == caption
    assert refcoco.caption_of({**row, "normal_caption": "own column."}, "f:1") == "own column"


def test_conversations_are_rewritten_and_the_rest_stays(tmp_path):
    answer = {"role": "assistant", "content": '```json\n[{"bbox_2d": [1, 2, 30, 40], "label": "x"}]\n```'}
    rows = [
        {
            "messages": [{"role": "user", "content": LEAD + f"shape {i}."}, answer],
            "images": [f"old/dir/{i}.jpg"],
            "id": i,
        }
        for i in range(2)
    ]
    (tmp_path / "in.json").write_text(json.dumps(rows))
    words = [
        "--json_path",
        tmp_path / "in.json",
        "--image_dir",
        "coco/train2014",
        "--output_path",
        tmp_path / "o/out.json",
    ]
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("2 rows\n"), done.stderr
    made = json.loads((tmp_path / "o/out.json").read_text())
    assert made[1]["messages"][0]["content"].startswith("<image>Locate shape 1 and") and made[1]["id"] == 1
    assert made[1]["messages"][1] == answer and made[1]["images"] == ["coco/train2014/1.jpg"]


def test_rec_annotations_become_conversations():
    row = {"image": "train2014/7.jpg", "problem": "...", "solution": [10.5, 20, 30.2, 40], "normal_caption": "the cup"}
    made = refcoco.rewritten(row, "f:1", "coco")
    assert made["images"] == ["coco/7.jpg"] and "image" not in made
    assert get_task("rec").gold(made["messages"][1]["content"], "f:1") == (10, 20, 30, 40)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "no question"),
        ({"messages": [{"content": "<image>."}]}, "the phrase is empty"),
        ({"normal_caption": "a", "image": "b.jpg"}, "no answer"),
        ({"normal_caption": "a", "solution": [1, 2, 3, 4]}, "no picture"),
    ],
)
def test_rows_that_cannot_be_rewritten_are_named(row, message):
    with pytest.raises(ValueError, match=f"^f:1: {message}"):
        refcoco.rewritten(row, "f:1", "coco")
