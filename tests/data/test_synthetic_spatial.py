# SPDX-License-Identifier: Apache-2.0
"""Spatial scenes: what the question says is measured again on the pixels."""

import re
from collections import Counter

import numpy as np
import pytest

from r1_mllm.data import read
from r1_mllm.data.synthetic import drawing, scene, weak_answer, write_splits
from r1_mllm.tasks import get_task

SIDE = 84


def draws(kind, num=60, seed=1, **options):
    rng = np.random.default_rng(seed)
    for _ in range(num):
        picture, row = scene("spatial", rng, relations=(kind,), **options)
        yield np.asarray(picture), row


def box(pixels, colour):
    """x1, y1, x2, y2 of what has the colour."""
    ys_xs = np.argwhere((pixels == drawing.COLOURS[colour]).all(-1))
    (top, left), (bottom, right) = ys_xs.min(0), ys_xs.max(0) + 1
    return left, top, right, bottom


def colours(row):
    return re.findall(rf"the ({'|'.join(drawing.COLOURS)}) ", row["question"])


def middle(pixels, colour):
    left, top, right, bottom = box(pixels, colour)
    return (left + right) / 2, (top + bottom) / 2


def two_coloured(kind, **options):
    """Scenes whose named objects differ in colour and are the only ones of theirs."""
    for pixels, row in draws(kind, max_objects=options.pop("max_objects", 2), **options):
        named = colours(row)
        if len(set(named)) == len(named) and not row["question"].endswith("the middle?"):
            yield pixels, row, named


def test_left_right_above_and_below_are_where_the_pixels_say():
    seen = Counter()
    for pixels, row, (one, other) in two_coloured("Relation"):
        (x1, y1), (x2, y2) = middle(pixels, one), middle(pixels, other)
        sideways = set(row["answers"]) == {"left", "right"}
        expected = ("right" if x1 > x2 else "left") if sideways else ("below" if y1 > y2 else "above")
        assert row["correct_answer"] == expected
        assert abs(x1 - x2 if sideways else y1 - y2) >= 0.2 * SIDE
        seen[expected] += 1
    assert set(seen) == {"left", "right", "above", "below"}


def test_the_smaller_one_is_behind():
    seen = Counter()
    for pixels, row, named in two_coloured("Depth"):
        sizes = [max(x2 - x1, y2 - y1) for x1, y1, x2, y2 in (box(pixels, colour) for colour in named)]
        assert row["correct_answer"] == ("behind" if sizes[0] < sizes[1] else "in front")
        assert max(sizes) >= 1.4 * min(sizes)
        seen[row["correct_answer"]] += 1
    assert min(seen["behind"], seen["in front"]) > 10


def test_the_nearer_of_two_is_nearer():
    checked = 0
    for pixels, row, (place, one, other) in two_coloured("Distance", max_objects=3):
        at = middle(pixels, place)
        far = {colour: np.hypot(*np.subtract(middle(pixels, colour), at)) for colour in (one, other)}
        assert row["correct_answer"].split()[1] == min(far, key=far.get)
        checked += 1
    assert checked > 20


def test_the_count_is_the_number_of_blobs_of_the_colour():
    ndimage = pytest.importorskip("scipy.ndimage")
    for pixels, row in draws("Count", max_objects=6):
        colour = row["question"].split()[2]
        _, num = ndimage.label((pixels == drawing.COLOURS[colour]).all(-1), np.ones((3, 3)))
        assert row["correct_answer"] == str(num) and len(set(row["answers"])) == 4


def test_the_splits_come_as_sat_and_as_cv_bench(tmp_path):
    train, test = write_splits("spatial", 12, tmp_path, 8, container="parquet")
    assert train == test == tmp_path
    sat = [row for row, _ in read.rows(tmp_path, "train")]
    assert set(sat[0]) == {"image_bytes", "question", "answers", "question_type", "correct_answer"}
    assert isinstance(sat[0]["image_bytes"], list) and isinstance(sat[0]["image_bytes"][0], bytes)
    held_out = [row for row, _ in read.rows(tmp_path, "test")]
    assert {"image", "type", "task", "question", "choices", "answer", "prompt", "source"} == set(held_out[0])
    assert set(held_out[0]["image"]) == {"bytes", "path"}
    for rows in (sat, held_out):
        for i, row in enumerate(rows):
            example = get_task("spatial").example(row, f"made:{i}")
            assert len(example.images) == 1 and example.answer in example.meta["options"]


def test_json_keeps_the_pictures_beside_the_rows(tmp_path):
    train, test = write_splits("spatial", 3, tmp_path, 2, container="jsonl")
    for path in (train, test):
        for row, where in read.rows(path):
            example = get_task("spatial").example(row, where, str(tmp_path))
            assert (tmp_path / row["image"]).is_file() and example.images == (str(tmp_path / row["image"]),)


def test_the_weak_annotator_takes_another_option_in_sixty_of_a_hundred():
    rng = np.random.default_rng(4)
    right = 0
    for _, row in draws("Relation", 40, max_objects=2):
        answers = [weak_answer("spatial", row, rng) for _ in range(25)]
        assert set(answers) <= set(row["answers"])
        right += answers.count(row["correct_answer"])
    assert 0.36 < right / 1000 < 0.44


def test_a_single_object_is_compared_with_the_middle():
    for pixels, row in draws("Relation", 30, max_objects=1):
        (colour,) = colours(row)
        x, y = middle(pixels, colour)
        expected = {"left": x < 42, "right": x > 42, "above": y < 42, "below": y > 42}[row["correct_answer"]]
        assert expected and row["question"].endswith("the middle?")


def test_too_few_objects_for_the_question_are_named():
    with pytest.raises(ValueError, match=r"max_objects 2 is too few for these questions \(Distance 3\)"):
        scene("spatial", np.random.default_rng(0), relations=("Distance",), max_objects=2)
    with pytest.raises(ValueError, match=r"relations \['Near'\]: choose from Relation"):
        scene("spatial", np.random.default_rng(0), relations=("Near",))
