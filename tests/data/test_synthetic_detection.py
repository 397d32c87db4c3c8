# SPDX-License-Identifier: Apache-2.0
"""Detection and GUI scenes: what a row says is measured again on the pixels."""

from collections import Counter

import numpy as np
import pytest

from r1_mllm.data import read
from r1_mllm.data.synthetic import drawing, scene, write_splits
from r1_mllm.tasks import get_task, named_task
from r1_mllm.tasks.gui import DEFECTS

SIDE = 84


def draws(task, num=60, seed=2, **options):
    rng = np.random.default_rng(seed)
    return [scene(task, rng, side=SIDE, **options) for _ in range(num)]


def coloured(picture):
    """True where one of the objects' colours is."""
    pixels = np.asarray(picture)
    return np.any([(pixels == colour).all(-1) for colour in drawing.COLOURS.values()], axis=0)


def test_the_boxes_hold_every_object_of_the_kinds_asked_for_exactly():
    nothing = 0
    for picture, row in draws("open_detection"):
        example = get_task("open_detection").example({**row, "image": "x.png"}, "x:1")
        asked = example.question.partition(": ")[2].rstrip(".").split(", ")
        assert {item["label"] for item in example.answer} <= set(asked)
        ink = coloured(picture)
        for item in example.answer:
            left, top, right, bottom = map(int, item["bbox_2d"])
            inside = ink[top:bottom, left:right]
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
            frame = ink[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1].sum()
            assert frame == inside.sum()  # the object ends at its box
        nothing += not example.answer
    assert 0 < nothing < 20


def test_the_defect_is_what_the_two_screens_show():
    seen = Counter()
    for (before, after), row in draws("gui", max_objects=2):
        example = get_task("gui").example({**row, "image": ["a", "b"]}, "x:1")
        words = example.question.split(" to the right")[0].split()
        colour = drawing.COLOURS[words[-2]]
        places = [np.argwhere((np.asarray(screen) == colour).all(-1)) for screen in (before, after)]
        if np.array_equal(np.asarray(before), np.asarray(after)):
            shown = "Operation no response"
        elif len(places[0]) != len(places[1]) or np.array_equal(*places):
            shown = "Unexpected task result"
        else:
            step = places[1][:, 1].mean() - places[0][:, 1].mean()
            shown = "No defect" if step > 0 else "Navigation logic error"
        same_colour = row["conversations"][0]["value"].count(words[-2]) > 1
        if not same_colour and len({tuple(c) for c in np.asarray(before)[coloured(before)]}) == 2:
            assert example.answer == shown
            seen[shown] += 1
        assert example.meta["options"] == list(DEFECTS) and named_task(row) == "gui"
    assert set(seen) == set(DEFECTS) and min(seen.values()) >= 5


@pytest.mark.parametrize("task", ["open_detection", "gui"])
@pytest.mark.parametrize("container", ["jsonl", "parquet"])
def test_written_rows_are_read_with_their_pictures(tmp_path, task, container):
    path, _ = write_splits(task, 6, tmp_path, num_test=2, container=container)
    found = list(read.rows(path, "train" if container == "parquet" else None))
    assert len(found) == 6
    for row, where in found:
        example = get_task(task).example(row, where, str(tmp_path))
        assert len(example.images) == (2 if task == "gui" else 1)
        assert all(isinstance(image, bytes) == (container == "parquet") for image in example.images)
