# SPDX-License-Identifier: Apache-2.0
"""pass@1 over several answers: sums by hand, then eval/test_math.py on real rows with a tiny real model."""

import json
from pathlib import Path

import pytest

from r1_mllm.config import EvalConfig
from r1_mllm.evaluation import math_eval
from r1_mllm.evaluation.math_eval import MathConfig, MathSettings
from r1_mllm.records import Example
from r1_mllm.runtime import Stop

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "tests/golden/cases/e2e/checkpoint"
MATHVISION = ROOT / "tests/data_files/mathvision"
BOXED = str(ROOT / "configs/prompts_boxed.yaml")


def row(verdicts, **groups):
    samples = [{"correct": verdict, "finished": True} for verdict in verdicts]
    return {"samples": samples, "pass_at_1": math_eval.share({"samples": samples}), "groups": groups}


def test_pass_at_1_is_the_mean_over_answers_then_problems():
    rows = [row([1, 0, 0, 0], level="1"), row([1, 1, 1, 0], level="2"), row([1, 1, 1, 1], level="2")]
    found = math_eval.summary(rows)
    assert found["accuracy"] == pytest.approx(100 * (0.25 + 0.75 + 1) / 3) and found["num"] == 3
    assert {name: part["accuracy"] for name, part in found["by"]["level"].items()} == {"1": 25.0, "2": 87.5}
    assert found["interval"][0] < found["accuracy"] < found["interval"][1]
    assert math_eval.share({"samples": []}) == 0.0


def test_a_column_with_one_value_or_too_many_is_no_table():
    rows = [row([1], year="2024", subject=str(i)) for i in range(40)]
    assert math_eval.summary(rows)["by"] == {}


def test_groups_are_read_from_columns_and_metadata():
    meta = {"subject": "algebra", "level": 3, "metadata": {"task": "geometry", "skills": ["a"], "source": None}}
    assert math_eval.groups_of(Example("math_boxed", "q", "1", meta=meta)) == {
        "subject": "algebra",
        "level": "3",
        "task": "geometry",
    }


def configured(folder, **changes):
    settings = {
        "model_path": str(CHECKPOINT), "data_root": str(folder), "logs_dir": str(folder / "logs"),
        "prompt_template": BOXED, "task": "math_boxed", "sample_num": 0, "max_new_tokens": 4, "results_name": "math",
        "max_pixels": 28 * 28 * 4, "batch_size": 4,
    }  # fmt: skip
    return MathConfig(MathSettings(num_samples=2), EvalConfig(**{**settings, **changes}))


def test_pictures_by_subject_and_level_and_text_in_three_layouts(tmp_path):
    text = {
        "aime24": [{"ID": "2024-I-1", "Problem": "Find n.", "Answer": "204", "year": 2024}],
        "math500": [{"problem": "Half?", "answer": "\\frac{1}{2}", "subject": "Algebra", "level": 2, "unique_id": "a"}],
        "gpqa": [{"Question": "Which?", "Correct Answer": "x", "Record ID": "r"}],
    }
    text["gpqa"][0] |= {f"Incorrect Answer {i}": f"y{i}" for i in (1, 2, 3)}
    for name, rows in text.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = ("problems", *text)
    lines = (MATHVISION / "problems.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "problems.jsonl").write_text("".join(lines[:4]), encoding="utf-8")
    roots = ":".join([str(MATHVISION), *[str(tmp_path)] * 3])
    config = configured(tmp_path, test_datasets=names, image_root=roots)
    found = math_eval.run(config)
    assert [about["num"] for about in found] == [4, 1, 1, 1]
    assert set(found[0]["by"]) == {"subject", "level"} and found[1]["by"] == {}
    path = tmp_path / "logs" / "math_problems_checkpoint_r1_100.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["num_samples"], content["temperature"]) == (2, 0.6)
    assert len(content["results"]) == 4 and all(len(row["samples"]) == 2 for row in content["results"])
    assert all("\\boxed{}" in row["prompt"] and "<think>" not in row["prompt"] for row in content["results"])
    assert any(a["model_output"] != b["model_output"] for a, b in (row["samples"] for row in content["results"]))
    assert math_eval.run(config) == found  # nothing is sampled twice


def test_json_of_mathvista_and_mathverse(tmp_path):
    vista = {"pid": "1", "question": "2 + 5?", "question_type": "free_form", "answer": "7", "choices": None,
             "image": "", "metadata": {"task": "word problem", "source": "a"}}  # fmt: skip
    other = {**vista, "pid": "2", "metadata": {"task": "figure", "source": "b"}}
    (tmp_path / "testmini.json").write_text(json.dumps({"1": vista, "2": other}))
    verse = {"sample_index": "1", "problem_version": "Text Only", "question": "2 + 5?", "question_type": "free-form",
             "answer": "7", "image": "", "metadata": {"subject": "Plane Geometry"}}  # fmt: skip
    rows = [verse, {**verse, "sample_index": "2", "problem_version": "Text Dominant"}]
    (tmp_path / "testmini_verse.json").write_text(json.dumps(rows))
    first, second = math_eval.run(configured(tmp_path, test_datasets=("testmini", "testmini_verse")))
    assert set(first["by"]) == {"task", "source"} and set(second["by"]) == {"problem_version"}


def test_a_model_and_a_data_set_are_asked_for(tmp_path):
    with pytest.raises(Stop, match="--model_path MODEL and --test_datasets"):
        math_eval.run(configured(tmp_path, test_datasets=()))
    with pytest.raises(Stop, match="--checkpoints is for"):
        math_eval.run(configured(tmp_path, test_datasets=("a",), checkpoints="runs/x"))


def test_the_defaults_are_8_answers_at_temperature_06():
    config = MathConfig()
    assert (config.math.num_samples, config.math.temperature, config.eval.sample_num) == (8, 0.6, 0)
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        MathConfig(MathSettings(num_samples=0))
