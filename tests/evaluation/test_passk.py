# SPDX-License-Identifier: Apache-2.0
"""pass@k against counting every subset, against hand numbers, and from recorded and sampled answers."""

import csv
import itertools
import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from r1_mllm import cli
from r1_mllm.evaluation.passk import Problem, bootstrap_mean, pass_at_k, table
from r1_mllm.evaluation.recorded import read_recorded
from r1_mllm.runtime import DATA, USAGE

CHECKPOINT = Path(__file__).resolve().parents[1] / "golden/cases/e2e/checkpoint"


@pytest.mark.parametrize("n", range(1, 8))
def test_the_estimate_is_the_share_of_subsets_with_a_right_answer(n):
    for c in range(n + 1):
        right = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(right, k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_hand_numbers():
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5)
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert pass_at_k(10, 3, 5) == pytest.approx(1 - 21 / 252)  # C(7, 5) / C(10, 5)
    assert pass_at_k(5, 0, 5) == 0.0 and pass_at_k(5, 1, 5) == 1.0 and pass_at_k(6, 4, 3) == 1.0
    # 1 - C(990, 200) / C(1000, 200): factorials of 1000 would overflow a float
    exact = 1 - math.comb(990, 200) / math.comb(1000, 200)
    assert pass_at_k(1000, 10, 200) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("n, c, k", [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_impossible_numbers_are_refused(n, c, k):
    with pytest.raises(ValueError, match=rf"pass@{k} of {c} right answers among {n}"):
        pass_at_k(n, c, k)


def test_the_interval_is_that_of_resampled_problems_and_follows_the_seed():
    values = np.array([0.0, 1.0, 1.0, 1.0])
    low, high = bootstrap_mean(values, 4000, 3)
    # the mean of four draws is binomial(4, 3/4) / 4: 0.05 of it at 0.25 or below, 0.32 at 1
    assert (low, high) == (0.25, 1.0) and bootstrap_mean(values, 4000, 3) == (low, high)
    rng = np.random.default_rng(0)
    many = rng.random(400)
    low, high = bootstrap_mean(many, 2000, 1)
    half = 1.96 * many.std() / 20
    assert low == pytest.approx(many.mean() - half, abs=0.2 * half) and high == pytest.approx(
        many.mean() + half, abs=0.2 * half
    )
    assert all(map(math.isnan, bootstrap_mean(values[:1], 100, 0)))


def test_forms_are_told_apart_and_the_mean_is_over_problems():
    problems = [Problem("a", "counting", "open", 4, 1), Problem("b", "counting", "open", 6, 6)]
    problems.append(Problem("c", "counting", "judge", 4, 0))
    found = {(e.form, e.k): e for e in table(problems, (1, 2))}
    assert found["open", 1].value == pytest.approx((0.25 + 1) / 2) and found["open", 2].value == pytest.approx(0.75)
    assert found["judge", 2].value == 0.0 and found["all", 2].value == pytest.approx(0.5)
    assert (found["open", 1].n_min, found["open", 1].n_max, found["all", 1].num_problems) == (4, 6, 3)
    assert len(table(problems[:2], (1,))) == 1  # one kind of problem needs no total


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def answer(value):
    return f"<think>so</think><answer>{value}</answer>"


@pytest.fixture
def recorded(tmp_path):
    """Three problems with four answers each in three layouts; 2, 1 and 3 of them are right."""
    rows = [
        {"id": "a", "ground_truth": 4, "samples": [answer(4), answer(5), {"model_output": answer(4)}, "none"]},
        {"id": "b", "ground_truth": 7, "model_output": [answer(1), answer(2), answer(3), answer(7)]},
    ]
    rows += [{"id": "c", "ground_truth": 2, "model_output": answer(value)} for value in (2, 2, 9, 2)]
    return write_lines(tmp_path / "recorded.jsonl", rows)


def test_recorded_answers_are_graded_by_the_task_and_counted(recorded, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--input_file", str(recorded), "--task", "counting", "--k_values", "1,2,4", "--output_dir", str(out)]
    cli.main(["passk", *words])
    lines = list(csv.DictReader((out / "passk.csv").open()))
    assert [(line["task"], line["form"], line["k"], line["n_min"]) for line in lines] == [
        ("counting", "open", k, "4") for k in "124"
    ]
    # 2, 1 and 3 of 4: pass@1 1/2 1/4 3/4; pass@2 5/6 1/2 1
    assert [float(line["pass_at_k"]) for line in lines] == pytest.approx([0.5, 7 / 9, 1.0], abs=1e-6)
    assert all(float(line["low"]) <= float(line["pass_at_k"]) <= float(line["high"]) for line in lines)
    told = json.loads((out / "passk.json").read_text())
    assert [(problem["id"], problem["n"], problem["c"]) for problem in told["problems"]] == [
        ("a", 4, 2),
        ("b", 4, 1),
        ("c", 4, 3),
    ]
    ElementTree.parse(out / "passk.svg")
    assert "pass@2 77.78%" in capsys.readouterr().out


def test_a_k_above_n_is_refused_by_name(recorded, tmp_path, capsys):
    words = ["--input_file", str(recorded), "--task", "counting", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        cli.main(["passk", *words, "--k_values", "1", "8"])
    assert ended.value.code == DATA
    assert "k=8 is more than the n=4 judged answers of problem 'a' (and 2 more problems)" in capsys.readouterr().err
    assert not (tmp_path / "out/passk.csv").exists()
    with pytest.raises(SystemExit):
        cli.main(["passk", "--model_path", "x", "--k_values", "16", "--num_generations", "4"])
    assert "k=16 is more than --num_generations 4" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["passk"])
    assert ended.value.code == USAGE and "--input_file FILE" in capsys.readouterr().err


def test_recorded_verdicts_count_unless_answers_are_graded_again(tmp_path):
    rows = [
        {"id": i, "task": "counting", "ground_truth": 4, "samples": [{"model_output": answer(4), "correct": 0}]}
        for i in "ab"
    ]
    path = write_lines(tmp_path / "r.jsonl", rows)
    values = []
    for more in ([], ["--regrade"]):
        cli.main(["passk", "--input_file", str(path), "--k_values", "1", "--output_dir", str(tmp_path / "o"), *more])
        values.append(json.loads((tmp_path / "o/passk.json").read_text())["table"][0]["pass_at_k"])
    assert values == [0.0, 1.0]


def test_forms_of_rows_are_graded_as_what_they_are(tmp_path):
    rows = [
        {"id": 1, "task": "rec", "form": "judge", "ground_truth": "yes", "samples": [answer("yes"), answer("no")]},
        {"id": 2, "task": "rec", "form": "choice", "ground_truth": "B", "samples": [answer("B"), answer("B")]},
    ]
    path = write_lines(tmp_path / "r.jsonl", rows)
    cli.main(["passk", "--input_file", str(path), "--k_values", "1", "--output_dir", str(tmp_path / "o")])
    found = {line["form"]: line["pass_at_k"] for line in json.loads((tmp_path / "o/passk.json").read_text())["table"]}
    assert found == {"judge": 0.5, "choice": 1.0, "all": 0.75}


@pytest.mark.parametrize(
    "rows, told",
    [
        ([{"ground_truth": 4, "model_output": "x"}], "needs an `id`"),
        ([{"id": 1, "model_output": 4}], "not {'id': 1"),
        ([{"id": 1, "samples": [3]}], "not 3"),
        ([{"id": 1, "samples": ["a"]}, {"id": 1, "samples": ["b"]}], "stood in .*:1 already"),
        ([{"id": 1, "question": q, "model_output": "a"} for q in "xy"], "question differs"),
    ],
)
def test_rows_that_cannot_be_counted_are_named(tmp_path, rows, told):
    with pytest.raises(ValueError, match=told):
        read_recorded(write_lines(tmp_path / "r.jsonl", rows))


def test_answers_are_sampled_once_and_resumed(project, tmp_path, capsys):
    words = ["--model_path", str(CHECKPOINT), "--data_root", str(project / "data"), "--max_new_tokens", "3"]
    words += [
        "--test_datasets",
        "superclevr_test200_counting_problems",
        "--image_root",
        str(project / "data/superclevr_200"),
    ]
    words += ["--batch_size", "2", "--num_generations", "3", "--k_values", "1", "3"]
    first, second = tmp_path / "one", tmp_path / "two"
    cli.main(["passk", *words, "--output_dir", str(first)])
    (samples,) = first.glob("samples_*.json")
    rows = json.loads(samples.read_text())["results"]
    assert [len(row["samples"]) for row in rows] == [3, 3, 3] and rows[0]["task"] == "counting"
    texts = [[entry["model_output"] for entry in row["samples"]] for row in rows]
    assert len({text for line in texts for text in line}) > 3
    # a run that was killed after its first batch goes on there and ends with the same answers
    key = json.loads(samples.read_text())["fingerprint"]
    lines = [{"fingerprint": key}, *({"index": i, "row": rows[i]} for i in (0, 1))]
    second.mkdir()
    write_lines(second / samples.name.replace(".json", ".partial.jsonl"), lines)
    capsys.readouterr()
    cli.main(["passk", *words, "--output_dir", str(second)])
    assert "2 of 3 questions are sampled already" in capsys.readouterr().out
    assert json.loads((second / samples.name).read_text())["results"] == rows
    cli.main(["passk", *words, "--output_dir", str(second)])
    assert "has these samples already" in capsys.readouterr().out
    cli.main(["passk", "--input_file", str(samples), "--k_values", "2", "--output_dir", str(tmp_path / "three")])
    assert json.loads((tmp_path / "three/passk.json").read_text())["problems"][0]["n"] == 3


def test_each_question_is_asked_in_each_form(project, tmp_path):
    words = ["--model_path", str(CHECKPOINT), "--data_root", str(project / "data/rec_jsons_processed"), "--task", "rec"]
    words += ["--test_datasets", "refcoco_val", "--image_root", str(project / "data/coco"), "--max_new_tokens", "2"]
    words += ["--form", "open", "judge", "choice", "--num_generations", "2", "--k_values", "2", "--sample_num", "2"]
    cli.main(["passk", *words, "--output_dir", str(tmp_path)])
    lines = list(csv.DictReader((tmp_path / "passk.csv").open()))
    found = [(line["task"], line["form"], line["num_problems"]) for line in lines]
    assert found == [("rec", "open", "2"), ("rec", "judge", "2"), ("rec", "choice", "2"), ("all", "all", "6")]
    (samples,) = tmp_path.glob("samples_refcoco_val_judge_*.json")
    row = json.loads(samples.read_text())["results"][0]
    assert "Is it right?" in row["prompt"] and isinstance(row["ground_truth"], bool)
