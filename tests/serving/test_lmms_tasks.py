# SPDX-License-Identifier: Apache-2.0
"""The lmms-eval tasks of eval/lmms_tasks put our questions and grade as `r1-mllm eval` does, boxes included."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TASKS = ROOT / "eval" / "lmms_tasks"
CHECKPOINT = ROOT / "tests/golden/cases/e2e/checkpoint"


def utils():
    spec = importlib.util.spec_from_file_location("lmms_utils", TASKS / "utils.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_prepared_row_is_asked_and_graded_as_ours(tmp_path):
    Image.new("RGB", (300, 200), "white").save(tmp_path / "a.png")
    row = {"image": "a.png", "problem": "Find the red cross.", "solution": [10, 20, 110, 90]}
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    command = [sys.executable, str(TASKS / "prepare.py"), "--model_path", str(CHECKPOINT), "--task", "rec"]
    command += ["--data", str(tmp_path / "rows.json"), "--out", str(tmp_path / "lmms_data")]
    assert "rec.jsonl" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (doc,) = [json.loads(line) for line in (tmp_path / "lmms_data/rec.jsonl").read_text().splitlines()]
    (message,) = utils().doc_to_messages(doc)
    assert [part["type"] for part in message["content"]] == ["image", "text"]
    assert message["content"][0]["url"].size == (300, 200)
    assert "Find the red cross." in message["content"][1]["text"] == utils().doc_to_text(doc)
    (view,) = json.loads(doc["views"])
    scale = [view["seen_wh"][i % 2] / view["original_wh"][i % 2] for i in range(4)]
    seen = [edge * factor for edge, factor in zip(row["solution"], scale, strict=True)]
    assert utils().process_results(doc, [f"<think>.</think><answer>{seen}</answer>"])["acc"] == 1.0
    half = [seen[0], seen[1], seen[0] + (seen[2] - seen[0]) / 4, seen[3]]
    graded = utils().process_results(doc, [f"<think>.</think><answer>{half}</answer>"])
    assert graded["acc"] == 0.0 and abs(graded["score"] - 0.25) < 1e-6


def test_every_task_names_functions_that_are_there():
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: node.value)
    files = sorted(TASKS.glob("*.yaml"))
    assert [file.stem for file in files] == ["r1_mllm_counting", "r1_mllm_mathvision", "r1_mllm_rec"]
    for file in files:
        task = yaml.load(file.read_text(), Loader=Loader)
        assert task["task"] == file.stem
        named = [value for value in task.values() if isinstance(value, str) and value.startswith("utils.")]
        assert len(named) == 5 and all(hasattr(utils(), name.removeprefix("utils.")) for name in named)


def test_differing_answers_are_counted_and_end_with_1(tmp_path):
    rows = [{"model_output": text, "correct": right} for text, right in (("a", 1), ("b", 0), ("c", 1))]
    (tmp_path / "results.json").write_text(json.dumps({"results": rows}))
    samples = [
        {"doc_id": 2, "filtered_resps": "c", "acc": 1.0},
        {"doc_id": 0, "resps": "<think></think>a", "filtered_resps": "a", "acc": 1.0},
        {"doc_id": 1, "resps": "b", "filtered_resps": "", "acc": 0.0},
    ]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    command = [
        sys.executable,
        str(TASKS / "compare.py"),
        str(tmp_path / "results.json"),
        str(tmp_path / "samples.jsonl"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "2 of 3 answers and 3 of 3 verdicts are equal" and done.returncode == 1
