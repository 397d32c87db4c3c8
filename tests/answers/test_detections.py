# SPDX-License-Identifier: Apache-2.0
"""Lists of labelled boxes; the scores of whole answers are in tests/golden/own/open_detection.jsonl."""

import itertools

import numpy as np
import pytest

from r1_mllm.answers.boxes import iou
from r1_mllm.answers.detections import Detection, as_rows, is_whole, length_factor, pairs, parse, read, weighted_sum

CAT = Detection((1.0, 2.0, 30.0, 40.5), "cat")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('[{"bbox_2d": [1, 2, 30, 40.5], "label": "Cat"}]', (CAT,)),
        ('Here:\n```json\n[{"bbox": [30, 40.5, 1, 2], "label": " cat. "}]\n```\nDone.', (CAT,)),
        ('{"bbox_2d": [1, 2, 30, 40.5], "label": "cat"}', (CAT,)),
        ("NONE.", ()),
        ("null", ()),
        ("[]", ()),
        ("```json\nNone\n```", ()),
        ("", None),
        ("[1, 2, 30, 40.5]", None),
        ('"cat"', None),
        ("3", None),
        ("[" * 100_000, None),
        (f'[{{"bbox_2d": [{"9" * 5000}, 2, 30, 40], "label": "cat"}}]', None),
        ("[" + " " * 200_000 + "]", None),
    ],
)
def test_a_list_is_read_or_refused(text, found):
    assert parse(text) == found


def test_what_an_item_lacks_is_not_made_up():
    no_label, no_box, far = read(
        [{"bbox_2d": [1, 2, 3, 4]}, {"label": "cat"}, {"bbox_2d": [0, 0, 1e12, 1], "label": 3}]
    )
    assert (no_label.box, no_label.label, no_box.box, no_box.label) == ((1, 2, 3, 4), "", (0, 0, 0, 0), "cat")
    assert far == Detection((0, 0, 0, 0), "")
    assert is_whole(CAT) and not any(map(is_whole, (no_label, no_box, far)))
    assert read(as_rows([CAT])) == (CAT,)


def random_boxes(rng, num):
    corners = rng.uniform(0, 40, (num, 2))
    sizes = rng.uniform(20, 60, (num, 2))
    labels = rng.choice(["cat", "dog"], num)
    return [
        Detection((*map(float, c), *map(float, c + s)), str(n)) for c, s, n in zip(corners, sizes, labels, strict=True)
    ]


def slow_pairs(predicted, gold, threshold, same_label):
    """Take the largest remaining overlap until none is left."""
    found, left, right = [], set(range(len(predicted))), set(range(len(gold)))
    while True:
        best = max(
            (
                (iou(predicted[i].box, gold[j].box), -i, -j)
                for i, j in itertools.product(left, right)
                if predicted[i].label == gold[j].label or not same_label
            ),
            default=(0, 0, 0),
        )
        if best[0] < threshold:
            return found
        found.append((-best[1], -best[2], best[0]))
        left.remove(-best[1])
        right.remove(-best[2])


@pytest.mark.parametrize("same_label", [True, False])
def test_boxes_pair_off_by_the_largest_overlap(same_label):
    rng = np.random.default_rng(7)
    sizes = 0
    for _ in range(30):
        predicted, gold = random_boxes(rng, 7), random_boxes(rng, 5)
        found = pairs(predicted, gold, 0.3, same_label)
        assert found == slow_pairs(predicted, gold, 0.3, same_label)
        sizes += len(found)
    assert sizes > 60


def test_the_weighted_sum_by_hand():
    gold = [Detection((0, 0, 10, 10), "cat"), Detection((20, 0, 30, 10), "dog"), Detection((40, 0, 50, 10), "cow")]
    written = [Detection((0, 0, 10, 8), "cat"), Detection((20, 0, 30, 9), "fox")]
    # overlaps 0.8 and 0.9 (the label differs); one of three missed, none false
    assert weighted_sum(written, gold) == pytest.approx(0.7 * 0.8 / 3 + 0.3 * (1 - (1 / 3) / 2))
    assert weighted_sum(gold, gold) == pytest.approx(1)
    assert (weighted_sum([], []), weighted_sum(gold, []), weighted_sum([], gold)) == (1, 0, 0)


def test_only_longer_lists_are_discounted():
    assert [length_factor([CAT] * n, [CAT] * 2) for n in (0, 1, 2, 3, 8)] == [1, 1, 1, pytest.approx(2 / 3), 0.25]
