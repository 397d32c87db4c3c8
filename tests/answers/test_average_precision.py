# SPDX-License-Identifier: Apache-2.0
import importlib.util

import numpy as np
import pytest

from r1_mllm.answers import average_precision as library
from r1_mllm.answers.boxes import iou
from r1_mllm.answers.detections import Detection

LABELS = ("cat", "dog", "cow")


def slow_average_precision(images, label, threshold):
    """COCO's rule in plain loops: boxes in order, each takes the best free right box; 101 recall points."""
    hits, num_gold = [], 0
    for predicted, gold in images:
        free = [right.box for right in gold if right.label == label]
        num_gold += len(free)
        for box in [found.box for found in predicted if found.label == label]:
            best = max(range(len(free)), key=lambda i: (iou(box, free[i]), i), default=None)
            hit = best is not None and iou(box, free[best]) >= threshold
            hits.append(hit)
            if hit:
                free.pop(best)
    points = []
    for wanted in np.linspace(0, 1, 101):
        precisions = [
            sum(hits[: n + 1]) / (n + 1) for n in range(len(hits)) if sum(hits[: n + 1]) / num_gold >= wanted - 1e-12
        ]
        points.append(max(precisions, default=0.0))
    return float(np.mean(points))


def made(rng):
    """Five images, boxes near the right ones and others, some with a wrong label."""
    images = []
    for _ in range(5):
        gold = []
        for _ in range(int(rng.integers(0, 6))):
            corner = rng.uniform(0, 500, 2)
            gold.append(Detection((*corner, *(corner + rng.uniform(30, 90, 2))), str(rng.choice(LABELS))))
        predicted = [
            Detection(tuple(np.array(right.box) + rng.normal(0, 5, 4)), right.label if rng.random() < 0.8 else "fox")
            for right in gold
            if rng.random() < 0.8
        ]
        for _ in range(int(rng.integers(0, 3))):
            corner = rng.uniform(0, 500, 2)
            predicted.append(Detection((*corner, *(corner + 40)), str(rng.choice(LABELS))))
        images.append(([predicted[i] for i in rng.permutation(len(predicted))], gold))
    return images


@pytest.mark.parametrize("seed", range(4))
def test_the_library_agrees_with_a_slow_loop(seed):
    images = made(np.random.default_rng(seed))
    labels = sorted({right.label for _, gold in images for right in gold})
    thresholds = np.arange(10, 20) / 20
    table = {label: [slow_average_precision(images, label, t) for t in thresholds] for label in labels}
    found = library.average_precision(images)
    assert 0.05 < found.map < 0.95
    assert found.map == pytest.approx(np.mean(list(table.values())), abs=1e-9)
    assert found.ap50 == pytest.approx(np.mean([row[0] for row in table.values()]), abs=1e-9)
    assert found.ap75 == pytest.approx(np.mean([row[5] for row in table.values()]), abs=1e-9)
    assert found.per_label == pytest.approx({label: np.mean(row) for label, row in table.items()}, abs=1e-9)


def test_huge_boxes_are_false_ones_and_not_passed_over():
    right = Detection((0.0, 0.0, 10.0, 10.0), "cat")
    huge = Detection((0.0, 0.0, 9e8, 9e8), "cat")
    assert library.average_precision([([huge, right], [right])]).map == pytest.approx(0.5)


def test_without_a_right_box_there_is_no_average():
    assert library.average_precision([([Detection((0, 0, 1, 1), "cat")], [])]) is None


def test_a_missing_library_names_its_installation(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'pycocotools"):
        library.average_precision([])


def test_nothing_is_printed(capsys):
    right = Detection((0.0, 0.0, 10.0, 10.0), "cat")
    library.average_precision([([right], [right])])
    assert capsys.readouterr().out == ""
