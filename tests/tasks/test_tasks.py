# SPDX-License-Identifier: Apache-2.0
"""What every task promises, and the rows each one reads."""

import json
from pathlib import Path

import numpy as np
import pytest

from r1_mllm.config import RewardConfig
from r1_mllm.records import View
from r1_mllm.tasks import SCORERS, TASKS, get_task, templates

TAGGED = "<think>t</think><answer>{}</answer>"
ROWS = {
    "rec": {"image": "a.jpg", "problem": "Find the cat.", "solution": [10, 20, 110.5, 80], "normal_caption": "the cat"},
    "counting": {"image": "a.jpg", "problem": "How many?", "solution": "<answer> 4 </answer>"},
    "geometry": {"image": "a.jpg", "problem": "Angle?", "solution": "<answer> 140\u00b0 </answer>"},
    "math_boxed": {"images": ["a.jpg"], "problem": "<image>Find x.", "answer": "\\frac{3}{8}"},
    "open_detection": {
        "image": "a.jpg",
        "problem": "Find every cat and dog.",
        "solution": [{"bbox_2d": [5, 6, 70, 80], "label": "cat"}, {"bbox_2d": [90, 6, 150.5, 80], "label": "dog"}],
    },
    "gui": {"image": ["a.jpg", "b.jpg"], "problem": "<image><image>Which defect?", "solution": "Operation No Response"},
    "spatial": {"image": "a.jpg", "question": "Where?", "choices": ["left", "right", "up", "down"], "answer": "(C)"},
}


def made(name, **changes):
    return get_task(name).example({**ROWS[name], **changes}, "f.json:7", "root")


@pytest.mark.parametrize("name", sorted(ROWS))
def test_the_right_answer_shown_is_right_and_distractors_are_wrong(name):
    task, example = get_task(name), made(name)
    wrap = "<think>t</think> {}" if name == "math_boxed" else TAGGED
    grade = task.grade(wrap.format(task.show(example.answer)), example)
    assert (grade.score, grade.correct) == (1.0, True)
    assert task.check_format(wrap.format(task.show(example.answer)), example) == (True, "")
    wrong = task.distractors(example, np.random.default_rng(3), 3)
    assert len({str(value) for value in wrong}) == 3
    assert not any(task.grade(wrap.format(task.show(value)), example).correct for value in wrong)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_nothing_written_is_no_answer(name):
    for text in ("", "<think>", TAGGED.format(""), "\\boxed{", "<answer></answer>"):
        grade = get_task(name).grade(text, made(name))
        assert (grade.score, grade.correct) == (0.0, False)


@pytest.mark.parametrize("name", sorted(ROWS))
@pytest.mark.parametrize("method", ["r1", "baseline"])
def test_messages_show_each_picture_before_the_text(name, method):
    example = made(name)
    (turn,) = get_task(name).messages(example, method)
    assert [part["type"] for part in turn["content"]] == ["image"] * len(example.images) + ["text"]
    text = turn["content"][-1]["text"]
    assert (ROWS[name].get("normal_caption") if name == "rec" and method == "baseline" else example.question) in text
    assert ("<think>" in text) == (method == "r1")
    assert "{question}" not in text and "{caption}" not in text and "{units}" not in text


def test_examples_keep_where_they_came_from_and_join_the_image_root():
    example = made("rec", id=5)
    assert example.images == ("root/a.jpg",)
    assert example.meta["where"] == "f.json:7" and example.meta["id"] == 5 and "problem" not in example.meta
    assert example.answer == (10.0, 20.0, 110.5, 80.0)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("rec", {"solution": [10, 20, 5, 80]}, r"f\.json:7: answer \[10, 20, 5, 80\] is not a box .* x1 < x2"),
        ("rec", {"solution": "none"}, "f.json:7: answer 'none' is not a box"),
        ("rec", {"solution": [1, 2, 3, float("nan")]}, "is not a box"),
        ("rec", {"solution": None}, "no answer; a row of this task needs one of solution"),
        ("rec", {"problem": " "}, "f.json:7: no question"),
        ("counting", {"solution": "2 or 3"}, "answer '2 or 3' is not a count"),
        ("counting", {"solution": 2.5}, "is not a count"),
        ("counting", {"image": 5}, "picture 5 is neither a path"),
        ("geometry", {"solution": "<answer> </answer>"}, "has 0 characters"),
        ("math_boxed", {"problem": "<image><image>x"}, "2 <image> marks but 1 pictures"),
        ("math_boxed", {"problem": "<image1> x", "images": []}, "marks <image1> but 0 pictures"),
    ],
)
def test_bad_rows_are_refused_with_place_value_and_cure(name, changes, message):
    with pytest.raises(ValueError, match=message):
        made(name, **changes)


def test_rec_reads_every_kind_of_row():
    expected = (1.0, 2.0, 30.0, 40.5)
    question = {"problem": "Find it.", "image": {"bytes": b"png", "path": None}}
    rows = [
        {**question, "solution": [1, 2, 30, 40.5]},
        {**question, "solution": "<answer>[1, 2, 30, 40.5]</answer>"},
        {**question, "solution": '{"bbox_2d": [1, 2, 30, 40.5]}'},
        {
            "image": b"png",
            "conversations": [
                {"from": "human", "value": "<image>Find it."},
                {"from": "gpt", "value": "<answer>```json\n[{\"bbox_2d\": [1, 2, 30, 40.5]}]\n```</answer>"},
            ],
        },
    ]  # fmt: skip
    for row in rows:
        example = get_task("rec").example(row, "x:1")
        assert (example.question, example.answer, example.images) == ("Find it.", expected, (b"png",))


def test_evaluation_rows_are_read():
    row = {"image_path": "./images/1.png", "question": "How many?", "ground_truth": 4}
    example = get_task("count").example(row, "x:1", "root")
    assert (example.answer, example.images) == (4, ("root/images/1.png",))
    assert get_task("geometry").example({**row, "ground_truth": "140\u00b0"}, "x:1").answer == "140\u00b0"


def test_mathvision_rows_are_read():
    row = {
        "id": "139",
        "question": "Cut it.\n<image1>\nWhich one?\n<image2>",
        "options": ["A", "B", "C", "D", "E"],
        "answer": "E",
        "solution": None,
        "image": "images/139.jpg",
    }
    example = get_task("math_boxed").example(row, "x:1")
    assert len(example.images) == 1 and example.answer == "E"
    assert example.question == "Cut it.\n (picture 1) \nWhich one?\n (picture 2)"
    lengths = {
        **row,
        "options": ["$1 \\mathrm{~cm}$", "$2 \\mathrm{~cm}$"],
        "answer": "B",
        "question": "Long?\n<image1>",
    }
    example = get_task("math_boxed").example(lengths, "x:1")
    assert example.question == "Long?\n\n(A) $1 \\mathrm{~cm}$\n(B) $2 \\mathrm{~cm}$".replace("\n\n", "\n")
    task = get_task("math_boxed")
    right = ["<think>t</think> \\boxed{B}", "<think>t</think> \\boxed{2 cm}", "\\boxed{\\text{(B)}}"]
    assert [task.grade(text, example).decided_by for text in right] == ["choice", "option_text", "choice"]
    assert not task.grade("\\boxed{1 cm}", example).correct


def test_the_threshold_is_strict_and_the_score_soft_or_hard():
    task, example = get_task("rec"), made("rec", solution=[0, 0, 10, 10])
    half = TAGGED.format("[0, 0, 10, 5]")
    assert (task.grade(half, example).score, task.grade(half, example).correct) == (0.5, False)
    assert task.grade(half, example, config=RewardConfig(soft_iou=False)).score == 0.0
    assert task.grade(half, example, config=RewardConfig(soft_iou=False, iou_threshold=0.4)).score == 1.0


def test_a_box_written_in_the_models_units_is_taken_back():
    example = made("rec", solution=[64, 48, 320, 240])
    grade = get_task("rec").grade(
        TAGGED.format("[100, 100, 500, 500]"), example, [View((640, 480), (1, 1), "per_mille")]
    )
    assert grade.score == pytest.approx(1.0)
    assert grade.extracted == pytest.approx((64, 48, 320, 240))


def test_the_baseline_method_reads_text_without_tags():
    example = made("rec")
    text = '```json\n[{"bbox_2d": [10, 20, 110.5, 80]}]\n```'
    assert get_task("rec").grade(text, example).decided_by == "no_answer"
    assert get_task("rec").grade(text, example, method="baseline").score == 1.0
    assert get_task("counting").grade("There are 4.", made("counting"), method="baseline").correct


def test_the_thinking_does_not_help():
    task = get_task("geometry")
    example = made("geometry", solution="120")
    assert not task.grade("<think>it is 120</think><answer>140</answer>", example).correct
    boxed = get_task("math_boxed")
    assert boxed.grade("<think>\\boxed{\\frac{3}{8}}</think> done", made("math_boxed")).decided_by == "no_answer"


def test_names_and_aliases():
    assert get_task("count") is TASKS["counting"] and get_task("boxed") is TASKS["math_boxed"]
    with pytest.raises(ValueError, match=r"unknown task 'countin'; did you mean 'counting'"):
        get_task("countin")


def test_a_users_prompts_replace_the_built_in_ones(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("counting:\n  open:\n    r1: 'Count {x}: {question}'\n")
    mine = templates.load_templates(path)
    turns = get_task("counting").messages(made("counting"), templates=mine, system_prompt="Be brief.")
    assert turns[0] == {"role": "system", "content": "Be brief."}
    assert turns[1]["content"][1]["text"] == "Count {x}: How many?"
    assert mine["rec"] == templates.built_in()["rec"]


@pytest.mark.parametrize("text", ["a: [", "3", "rec: 3", "rec: {open: {r1: no place}}"])
def test_unusable_prompt_files_are_refused(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.yaml"):
        templates.load_templates(path)


def test_a_missing_prompt_names_the_cure():
    with pytest.raises(ValueError, match=r"method 'cot'.*--prompt_template"):
        get_task("rec").messages(made("rec"), "cot")


def test_units_of_boxes_are_told():
    ask = get_task("rec").messages
    assert "in pixels" in json.dumps(ask(made("rec"), view_units="seen_px"))
    assert "0 to 1000" in json.dumps(ask(made("rec"), view_units="per_mille"))


def test_built_in_prompts_cover_every_task():
    assert set(templates.built_in()) == set(TASKS) - {task.name for task in SCORERS}
    assert Path(templates.BUILT_IN).is_file()
