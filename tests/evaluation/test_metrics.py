# SPDX-License-Identifier: Apache-2.0
import pytest

from r1_mllm.evaluation import metrics


def test_label_sets_by_hand():
    rows = [
        {"ground_truth": ["cat", "traffic light"], "extracted_answer": ["cat"]},  # 1 common of 2
        {"ground_truth": ["dog"], "extracted_answer": ["dog"]},
        {"ground_truth": ["dog"], "extracted_answer": ["bus", "dog", "car"]},  # a superset is not the set
        {"ground_truth": ["dog"], "extracted_answer": None},
        {"ground_truth": "<answer>Bus, car</answer>", "extracted_answer": ["bus", "car"]},
    ]
    found = metrics.extra("classification", rows)
    assert found["exact_set_accuracy"] == pytest.approx(100 * 2 / 5)
    assert found["jaccard"] == pytest.approx(100 * (1 / 2 + 1 + 1 / 3 + 0 + 1) / 5)
    assert found["micro_f1"] == pytest.approx(100 * 2 * 5 / (7 + 7))  # 5 common, 7 right labels, 7 predicted


def test_detections_of_several_images_by_hand():
    cat, dog = {"bbox_2d": [0, 0, 100, 100], "label": "cat"}, {"bbox_2d": [200, 0, 300, 100], "label": "dog"}
    rows = [
        {"ground_truth": [cat, dog], "extracted_answer": [cat]},
        {"ground_truth": [cat], "extracted_answer": [{**cat, "bbox_2d": [0, 0, 100, 82]}, dog]},
        {"ground_truth": [], "extracted_answer": []},
        {"ground_truth": [dog], "extracted_answer": None},
    ]
    found = metrics.extra("open_detection", rows)
    # cat: right twice up to IoU 0.8; above, right then wrong with 2 to find: 51 of 101 recall points.  dog: one wrong.
    cat_ap = (7 + 3 * 51 / 101) / 10
    assert found["ap_per_label"] == pytest.approx({"cat": 100 * cat_ap, "dog": 0})
    assert (found["map"], found["ap50"]) == (pytest.approx(50 * cat_ap), pytest.approx(50))
    assert found["ap75"] == pytest.approx(50)
    assert found["micro_f1_50"] == pytest.approx(100 * 2 * 2 / (3 + 4))
    assert metrics.shown(found).startswith("micro_f1_50 57.14, map ")


def test_other_tasks_have_none():
    assert metrics.extra("counting", [{"ground_truth": 3, "extracted_answer": 3}]) == {}
    assert metrics.extra("open_detection", [{"ground_truth": "None", "extracted_answer": "cat"}]) == {}
    assert metrics.shown({}) == ""
