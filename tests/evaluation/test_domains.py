# SPDX-License-Identifier: Apache-2.0
"""Held-out sets by task and domain, in the folders of the curriculum data set; RefGTA's resized pictures."""

import json
from pathlib import Path

import pytest
from PIL import Image

from r1_mllm.config import EvalConfig
from r1_mllm.evaluation import domains
from r1_mllm.evaluation.command import load_sets, main
from r1_mllm.tasks import get_task

CHECKPOINT = Path(__file__).resolve().parents[2] / "tests/golden/cases/e2e/checkpoint"
TAGGED = "<think>t</think><answer>{}</answer>"


def picture(path, width, height):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (width % 256, 90, 10)).save(path)


@pytest.fixture
def place(tmp_path):
    """The six sets with one row each, and their pictures: RefGTA at full size and resized to a third."""
    sets = {
        "detection_coco_test": {"image": "a.png", "problem": "Find it.", "task": "detection"},
        "classify_v2_coco_test": {"image": "a.png", "problem": "What is there?", "solution": "cat, dog"},
        "math_math_test": {"image": "a.png", "problem": "Angle?", "solution": "<answer> 30 </answer>"},
        "classify_pascal_voc_test": {"image": "a.png", "problem": "What is there?", "solution": "tv monitor"},
        "superclevr_test200_counting_problems": {
            "image_path": "./images/a.png",
            "question": "How many?",
            "ground_truth": 4,
        },
    }
    sets["detection_coco_test"]["solution"] = "<answer>[1, 2, 30, 40]</answer>"
    for name, row in sets.items():
        path = tmp_path / "data" / domains.SETS[name].folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row) + "\n")
    refgta = {
        "image": "final/0001/a.png",
        "problem": "the left man",
        "solution": [60.0, 90.0, 180.0, 240.0],
        "normalized_solution": [200, 300, 600, 800],
        "resize_solution": [20.0, 30.0, 60.0, 80.0],
    }
    folder = tmp_path / "data" / domains.SETS["refgta_subsample_resize"].folder
    folder.mkdir(parents=True)
    (folder / "refgta_subsample_resize.json").write_text(json.dumps([refgta]))
    picture(tmp_path / "pictures/final/0001/a.png", 300, 300)
    picture(tmp_path / "pictures/final_resize/0001/a.png", 100, 100)
    picture(tmp_path / "pictures/a.png", 80, 60)
    picture(tmp_path / "pictures/images/a.png", 96, 60)
    return tmp_path


def config_for(place, **changes):
    return EvalConfig(
        **{"model_path": "m", "data_root": str(place / "data"), "image_root": str(place / "pictures"), **changes}
    )


def test_task_words_stand_for_their_sets():
    assert domains.names(("detection", "math")) == (
        "detection_coco_test",
        "refgta_subsample_resize",
        "math_math_test",
        "superclevr_test200_counting_problems",
    )
    assert domains.names(("classify",), "out") == ("classify_pascal_voc_test",)
    with pytest.raises(ValueError, match=r"--task_list clasify.*known: classify, detection, math"):
        domains.names(("clasify",))


def test_each_set_is_found_with_its_own_task(place):
    found = load_sets(config_for(place, task_list=("detection", "classify", "math")))
    tasks = ["rec", "rec", "classification", "classification", "geometry", "counting"]
    assert [data_set.task for data_set in found] == tasks
    assert [data_set.domain for data_set in found] == ["in", "out"] * 3
    assert found[2].examples[0].answer == {"cat", "dog"} and found[5].examples[0].answer == 4


def test_a_resized_picture_has_its_own_box_and_no_other_counts(place):
    names = {"test_datasets": ("refgta_subsample_resize",)}
    (full,), (small,) = (
        load_sets(config_for(place, resized_images=resized, **names))[0].examples for resized in (False, True)
    )
    assert (full.images[0], full.answer) == (str(place / "pictures/final/0001/a.png"), (60, 90, 180, 240))
    assert (small.images[0], small.answer) == (str(place / "pictures/final_resize/0001/a.png"), (20, 30, 60, 80))
    task = get_task("rec")
    right = {"full": "[60, 90, 180, 240]", "small": "[20, 30, 60, 80]", "per_mille": "[200, 300, 600, 800]"}
    verdicts = {name: [task.grade(TAGGED.format(box), e).correct for e in (full, small)] for name, box in right.items()}
    assert verdicts == {"full": [True, False], "small": [False, True], "per_mille": [False, False]}


def test_resized_pictures_need_their_box(place):
    with pytest.raises(ValueError, match="no resize_solution; --resized_images is for refgta_subsample_resize"):
        load_sets(config_for(place, resized_images=True, task_list=("detection",), domain="in"))
    row = {"image": "0001/a.png", "resize_solution": [1, 2, 3, 4], "solution": [0, 0, 9, 9]}
    assert domains.resized(row, "x:1") == {**row, "solution": [1, 2, 3, 4]}


def test_each_set_may_have_its_own_picture_folder(place):
    (place / "elsewhere").mkdir()
    (place / "pictures/images").rename(place / "elsewhere/images")
    roots = f"{place / 'pictures'}:{place / 'elsewhere'}"
    found = load_sets(config_for(place, task_list=("math",), image_root=roots))
    assert found[1].examples[0].images == (str(place / "elsewhere/images/a.png"),)
    with pytest.raises(ValueError, match=r"--image_root names 2 folders for 1 data sets: math_math_test"):
        load_sets(config_for(place, task_list=("math",), domain="in", image_root=roots))


def test_the_command_names_results_by_task_and_domain(place, capsys):
    words = ["--model_path", str(CHECKPOINT), "--data_root", str(place / "data"), "--max_new_tokens", "2"]
    words += ["--image_root", str(place / "pictures"), "--logs_dir", str(place / "logs"), "--steps", "7"]
    main("", [*words, "--task_list", "classify", "--model_name", "tiny"], prog="r1-mllm eval")
    files = {path.name: json.loads(path.read_text()) for path in (place / "logs").glob("*.json")}
    assert sorted(files) == [
        "classify_in_classify_v2_coco_test_tiny_r1_7.json",
        "classify_out_classify_pascal_voc_test_tiny_r1_7.json",
    ]
    first = files["classify_in_classify_v2_coco_test_tiny_r1_7.json"]
    assert (first["domain"], first["task"], first["num"]) == ("in", "classification", 1)
    assert set(first["metrics"]) == {"exact_set_accuracy", "micro_f1", "jaccard"}
    assert "exact_set_accuracy 0.00, micro_f1 0.00, jaccard 0.00" in capsys.readouterr().out
