# SPDX-License-Identifier: Apache-2.0
"""Every checkpoint of a run on in-domain and out-of-domain sets; how sets are named."""

import csv
import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

from r1_mllm.config import EvalConfig
from r1_mllm.evaluation import checkpoints
from r1_mllm.evaluation.checkpoints import Reached
from r1_mllm.evaluation.choosing import SetChoice, chosen_sets, read_sets
from r1_mllm.evaluation.command import load_sets, main
from r1_mllm.evaluation.evaluate import summarise
from r1_mllm.runtime import Stop

CHECKPOINT = Path(__file__).resolve().parents[1] / "golden/cases/e2e/checkpoint"


@pytest.fixture
def run_folder(tmp_path):
    """A run with checkpoints 20 and 100, which differ in nothing."""
    for step in (100, 20):
        shutil.copytree(CHECKPOINT, tmp_path / f"My Run/checkpoint-{step}")
    (tmp_path / "My Run/checkpoint-x").mkdir()
    return tmp_path / "My Run"


@pytest.fixture
def sets_file(project):
    """Two in-domain sets and one from elsewhere, each with a task and folder of its own."""
    content = {
        "in_domain": [
            {"path": "rec_jsons_processed/refcoco_val", "name": "boxes", "task": "rec", "sample_num": 2},
            {"path": str(project / "data/geoqa_test_prompts.jsonl"), "image_root": str(project / "data")},
        ],
        "out_of_domain": [
            {
                "path": "superclevr_test200_counting_problems",
                "image_root": str(project / "data/superclevr_200"),
                "method": "baseline",
            }
        ],
    }
    content["in_domain"][0]["image_root"] = str(project / "data/coco")
    path = project / "sets.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_every_checkpoint_is_evaluated_on_every_set_once(run_folder, sets_file, project, capsys):
    words = ["--checkpoints", str(run_folder), "--eval_sets", str(sets_file)]
    words += ["--data_root", str(project / "data"), "--logs_dir", str(project / "logs"), "--max_new_tokens", "3"]
    main("", words)
    rows = list(csv.DictReader((project / "logs/checkpoints_my run_r1.csv").open()))
    sets = ["boxes", "geoqa_test_prompts", "superclevr_test200_counting_problems"]
    assert [(row["step"], row["dataset"]) for row in rows] == [(s, name) for s in ("20", "100") for name in sets]
    assert [row["domain"] for row in rows[:3]] == ["in", "in", "out"]
    assert [(row["task"], row["num"]) for row in rows[:3]] == [("rec", "2"), ("geometry", "3"), ("counting", "3")]
    assert rows[3]["checkpoint"].endswith("checkpoint-100") and float(rows[0]["low"]) <= float(rows[0]["high"])
    ElementTree.parse(project / "logs/checkpoints_my run_r1.svg")
    written = json.loads(
        (project / "logs/counting_results_superclevr_test200_counting_problems_my run_r1_20.json").read_text()
    )
    assert written["settings"]["method"] == "baseline" and written["domain"] == "out"
    capsys.readouterr()
    times = {path: os.stat(path).st_mtime_ns for path in (project / "logs").glob("*results*")}
    main("", words)  # nothing is asked again
    assert capsys.readouterr().out.count("has these results already") == 6
    assert times == {path: os.stat(path).st_mtime_ns for path in (project / "logs").glob("*results*")}


def reached(step, name, domain, num_correct):
    rows = [{"correct": int(i < num_correct), "score": 0.5, "decided_by": "exact"} for i in range(10)]
    settings = EvalConfig(model_path=f"run/checkpoint-{step}", steps=step)
    return Reached(settings, name, domain, "counting", summarise(rows))


def test_the_table_and_the_curve_say_what_was_measured(tmp_path):
    config = EvalConfig(checkpoints="run", logs_dir=str(tmp_path), method="r1")
    entries = [
        reached(5, "a", "in", 3),
        reached(5, "b", "out", 1),
        reached(30, "a", "in", 8),
        reached(30, "b", "out", 10),
    ]
    table, picture = checkpoints.write(config, entries)
    lines = table.read_text().splitlines()
    assert lines[0] == "step,checkpoint,dataset,domain,task,num,num_correct,accuracy,low,high,mean_score"
    assert lines[1] == "5,run/checkpoint-5,a,in,counting,10,3,30.0,10.7791,60.3222,0.5"
    assert len(lines) == 5
    svg = picture.read_text()
    assert "a (in-domain): 80 at 30" in svg and "b (out-of-domain): 10 at 5" in svg and "stroke-dasharray" in svg


def test_checkpoints_come_by_step_after_the_model_the_run_started_from(run_folder):
    config = EvalConfig(checkpoints=str(run_folder), model_path="base/model")
    settings = checkpoints.runs(config)
    assert [(run.steps, Path(run.model_path).name, run.model_name) for run in settings] == [
        (0, "model", "My Run"),
        (20, "checkpoint-20", "My Run"),
        (100, "checkpoint-100", "My Run"),
    ]


def test_a_folder_without_checkpoints_is_named(tmp_path):
    for folder, told in ((tmp_path, "no checkpoint-N"), (tmp_path / "absent", "no such folder")):
        with pytest.raises(Stop, match=told):
            checkpoints.runs(EvalConfig(checkpoints=str(folder)))


def test_neither_model_nor_run_is_an_error(capsys):
    with pytest.raises(SystemExit):
        main("", ["--test_datasets", "x"])
    assert "--model_path MODEL is missing" in capsys.readouterr().err


def test_sets_of_the_command_line_are_told_apart(project):
    config = EvalConfig(test_datasets=("a", "b"), ood_datasets=("c",))
    assert [(choice.path, choice.domain) for choice in chosen_sets(config)] == [("a", "in"), ("b", "in"), ("c", "out")]
    place = {"data_root": str(project / "data/rec_jsons_processed"), "image_root": str(project / "data/coco")}
    loaded = load_sets(EvalConfig(test_datasets=("refcocop_val",), ood_datasets=("refcoco_val",), **place))
    assert [(data_set.name, data_set.domain) for data_set in loaded] == [("refcocop_val", "in"), ("refcoco_val", "out")]


def test_sets_of_one_name_are_refused(project, capsys):
    words = ["--model_path", str(CHECKPOINT), "--data_root", str(project / "data/rec_jsons_processed")]
    words += [
        "--image_root",
        str(project / "data/coco"),
        "--test_datasets",
        "refcoco_val",
        "--ood_datasets",
        "refcoco_val",
    ]
    with pytest.raises(SystemExit):
        main("", words)
    assert "'refcoco_val' are there twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content, told",
    [
        ({"in_domain": [{"pth": "a"}]}, "has no path"),
        ({"in_domain": [{"path": "a", "tsk": "rec"}]}, "unknown key 'tsk'; did you mean 'task'"),
        ({"indomain": []}, "needs a list of sets"),
        ({"indomain": [{"path": "a"}]}, "unknown key 'indomain'; did you mean 'in_domain'"),
        ({"in_domain": [{"path": "a", "sample_num": "many"}]}, "sample_num 'many'"),
        ({"in_domain": [{"path": "a", "method": "r2"}]}, "method 'r2'"),
        ({"in_domain": "a"}, "not a list"),
        ([1], "needs a list of sets"),
    ],
)
def test_what_is_wrong_with_a_file_of_sets_is_said(tmp_path, content, told):
    (tmp_path / "sets.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=told):
        read_sets(tmp_path / "sets.yaml")
    with pytest.raises(ValueError, match="cannot be read"):
        read_sets(tmp_path / "absent.yaml")


def test_a_set_says_only_what_differs(sets_file):
    boxes, geometry, counting = read_sets(sets_file)
    assert dict(boxes.overrides)["sample_num"] == 2 and (boxes.name, boxes.domain) == ("boxes", "in")
    config = EvalConfig(sample_num=7, method="r1")
    assert counting.settings(config).method == "baseline" and counting.settings(config).sample_num == 7
    assert geometry.settings(config).task is None and SetChoice("x").settings(config) == config
