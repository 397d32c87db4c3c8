# SPDX-License-Identifier: Apache-2.0
import time

import pytest

from r1_mllm.answers import boxes


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 4, 3), (2, 1, 6, 5), 4 / 24),  # 12 + 16 - 4
        ((10, 20, 11, 50), (10, 20, 11, 50), 1.0),  # one pixel wide
        ((0, 0, 1, 1), (0, 0, 1, 1), 1.0),
        ((0.2, 0.1, 0.7, 0.5), (0.2, 0.1, 0.45, 0.5), 0.5),
        ((5, 5, 5, 5), (5, 5, 5, 5), 0.0),
        ((5, 5, 5, 9), (4, 5, 6, 9), 0.0),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0.0),
        ((4, 3, 0, 0), (2, 1, 6, 5), 4 / 24),
        ((0, 0, 1e21, 1e21), (10, 10, 20, 30), 0.0),
        ((-1e308, 0, 1e308, 1e308), (10, 10, 20, 30), 0.0),
        ((1e308, 0, 1e309, 1), (1e308, 0, 1e309, 1), 0.0),
    ],
)
def test_iou_is_the_ratio_of_areas(a, b, expected):
    assert boxes.iou(a, b) == pytest.approx(expected, abs=1e-9)
    assert boxes.iou(b, a) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ('{"bbox_2d": [1, 2.5, 30, 40], "label": "[cat]"}', (1, 2.5, 30, 40)),
        ("```json\n[{'bbox_2d': [1, 2, 30, 40]}]\n```", (1, 2, 30, 40)),
        ("The 4 dogs: [1,2,30,40], then [5,6,7,8]", (1, 2, 30, 40)),
        ("(1, 2), (30, 40)", (1, 2, 30, 40)),
        ("<|box_start|>(1,2),(30,40)<|box_end|>", (1, 2, 30, 40)),
        ("1, 2, 30, 40", (1, 2, 30, 40)),
        ("[30, 40, 1, 2]", (1, 2, 30, 40)),
        ("[-1.5, 2, 3e1, .5]", (-1.5, 0.5, 30, 2)),
        ("[1, 2, 30]", None),
        ("[1, 2, 30, 40, 5]", None),
        ("[1,200, 300, 1,500, 800]", None),
        ("[NaN, 2, 30, 40]", None),
        ("[1e999, 2, 30, 40]", None),
        ("1 2 30", None),
        ("", None),
    ],
)
def test_the_first_box_of_a_text_is_read(text, box):
    assert boxes.first_box(text) == box


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"bbox_2d": [1, 2, 3, 4.5]}', True),
        ('```json\n[{"label": "x", "bbox_2d": [1, 2, 3, 4]}]\n```', True),
        ("[1, 2, 3, 4]", False),
        ('{"bbox_2d": ["1", 2, 3, 4]}', False),
        ('{"bbox_2d": [NaN, 2, 3, 4]}', False),
        ('{"bbox_2d": [1, 2, 3]}', False),
        ('{"bbox_2d": [1, 2, 3, 4]', False),
        ("[" * 10_000, False),
    ],
)
def test_strict_json_needs_an_object_with_four_finite_numbers(answer, expected):
    assert boxes.is_json_box(answer) is expected


@pytest.mark.parametrize("text", ["[1, " * 50_000, "[" + " " * 100_000, "1" * 100_000, "[1,1,1,1" + " " * 100_000])
def test_no_text_slows_the_search_down(text):
    started = time.process_time()
    boxes.first_box(text)
    assert time.process_time() - started < 0.5
