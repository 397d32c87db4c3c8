# SPDX-License-Identifier: Apache-2.0
"""SAT and CV-Bench rows as examples, and what an answer to them is worth."""

import json
from collections import Counter
from pathlib import Path

import pytest

from r1_mllm.records import Example
from r1_mllm.tasks import get_task
from r1_mllm.tasks.spatial import Spatial

OWN_ROWS = Path(__file__).parents[1] / "golden" / "own" / "cvbench.jsonl"
SAT = {
    "image_bytes": [b"one", b"two"],
    "question": "How did the camera move?",
    "answers": ["left, then up", "right", "down"],
    "question_type": "action_sequence",
    "correct_answer": "right",
}
CV_BENCH = {
    "idx": 3,
    "type": "3D",
    "task": "Depth",
    "image": {"bytes": b"one", "path": None},
    "question": "Which is closer to the camera?",
    "choices": ["chair", "table"],
    "answer": "(B)",
    "prompt": "not read",
}


def own_rows():
    return [json.loads(line) for line in OWN_ROWS.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("row", own_rows(), ids=lambda row: row["id"])
def test_a_hand_made_row_is_worth_what_it_says(row):
    task = Spatial()
    example = task.example({"question": "Which?", "choices": row["options"], "answer": row["solution"]}, "own.jsonl:1")
    grade = task.grade(row["completion"], example)
    assert (grade.score, grade.decided_by) == (row["accuracy"], row["decided_by"]), row["why"]
    assert float(task.check_format(row["completion"], example)[0]) == row["format"]


def test_sat_options_are_shuffled_by_the_row_alone_and_commas_split_nothing():
    task = get_task("sat")
    example = task.example(SAT, "SAT_train.parquet:7")
    assert example.images == (b"one", b"two") and example.answer == "right"
    listed = example.meta["options"]
    assert sorted(listed) == sorted(SAT["answers"])
    assert listed["ABC".index(example.meta["letter"])] == "right"
    letters = [line for line in example.question.splitlines() if line.startswith("(")]
    assert letters == [f"({letter}) {option}" for letter, option in zip("ABC", listed, strict=True)]
    again = task.example({**SAT, "answers": SAT["answers"][::-1]}, "/elsewhere/SAT_train.parquet:7")
    assert again.question == example.question


def test_every_place_of_the_right_option_is_about_equally_frequent():
    places = Counter(Spatial().example(SAT, f"SAT_train.parquet:{i}").meta["letter"] for i in range(3000))
    assert set(places) == {"A", "B", "C"} and all(900 < count < 1100 for count in places.values())


def test_cv_bench_keeps_its_letters_and_its_category():
    example = Spatial().example(CV_BENCH, "test_3d.parquet:4")
    assert example.answer == "table" and example.meta["letter"] == "B"
    assert example.question == "Which is closer to the camera?\n(A) chair\n(B) table"
    assert (example.meta["task"], example.meta["type"]) == ("Depth", "3D")


@pytest.mark.parametrize(
    ("row", "changes", "message"),
    [
        (SAT, {"correct_answer": "up"}, r"f:1: correct_answer 'up' stands 0 times"),
        (SAT, {"answers": ["right", "right"]}, r"stands 2 times"),
        (SAT, {"answers": "left, right"}, r"not a list"),
        (SAT, {"answers": ["right"]}, r"1 options; a question needs 2"),
        (SAT, {"answers": ["right", "Right."]}, r"no two the same"),
        (CV_BENCH, {"answer": "(C)"}, r"answer '\(C\)' is none of the options"),
        (CV_BENCH, {"choices": None}, r"no options; a row needs `answers`"),
        (CV_BENCH, {"answer": None}, r"no answer"),
    ],
)
def test_a_row_that_is_not_in_order_is_named(row, changes, message):
    with pytest.raises(ValueError, match=message):
        Spatial().example({**row, **changes}, "f:1")


def test_recorded_outputs_without_options_compare_words_or_letters():
    task = Spatial()
    for gold, said, right in [("(B)", "B", 1), ("(B)", "(A)", 0), ("left", "Left.", 1), ("left", "B", 0)]:
        example = Example(task.name, "", task.gold(gold, "f:1"), meta={"model_output": ""})
        assert task.grade(f"<think></think><answer>{said}</answer>", example).score == right


def test_the_baseline_prompt_counts_the_whole_text():
    example = Spatial().example(CV_BENCH, "f:1")
    assert Spatial().grade("The table is closer.", example, method="baseline").correct
    assert Spatial().grade("The table is closer.", example).decided_by == "no_answer"
