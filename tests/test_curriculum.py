# SPDX-License-Identifier: Apache-2.0
"""Every task's examples as judges and choices: what must hold whatever the task."""

from collections import Counter
from dataclasses import replace

import pytest

from r1_mllm import curriculum, rewards
from r1_mllm.config import RewardConfig
from r1_mllm.records import Completion, Example, Group, Prompt, View
from r1_mllm.tasks import TASKS, asked_as, get_task
from r1_mllm.tasks.templates import built_in

TAGGED = "<think>t</think><answer>{}</answer>"
BOXED = ("math_boxed", "math_verify_for_dapo", "geo3k")
LABELS = ("cat", "dog", "traffic light", "bus", "car", "horse", "sofa")


def example_number(task, n):
    """The n-th of many different open examples of a task."""
    rows = {
        "rec": {"solution": [10 + n, 20, 90.5 + 2 * n, 100 + n], "normal_caption": "the cat"},
        "counting": {"solution": f"<answer> {1 + n % 7} </answer>"},
        "geometry": {"solution": f"<answer> {15 * (2 + n % 9)}\u00b0 </answer>"},
        **{name: {"answer": f"\\frac{{{3 + n % 5}}}{{17}}"} for name in BOXED},
        "classification": {"solution": ", ".join(LABELS[(n + i) % 7] for i in range(1 + n % 3))},
        "spatial": {"choices": ["left", "right", "behind"][: 2 + n % 2], "answer": f"({'ABA'[n % 3]})"},
        "gui": {"image": ["a.jpg", "b.jpg"], "solution": ("Operation No Response", "Text Overlap")[n % 2]},
        "open_detection": {
            "solution": [
                {"bbox_2d": [5 + n, 6, 70 + n, 80.5], "label": "cat"},
                {"bbox_2d": [90, 6, 150, 80], "label": "dog"},
            ]
        },
        "coco_vqa": {"solution": ("red", "two dogs", "on the table", "a blue car", "yes it is")[n % 5]},
    }
    row = {"image": f"{n}.jpg", "problem": f"Question {n}?", **rows[task]}
    return get_task(task).example(row, f"f.json:{n}")


OPEN = tuple(name for name in TASKS if name not in ("judge", "choice", "multi_choice"))


def examples(task, num=300):
    return [example_number(task, n) for n in range(num)]


def grade(example, answer):
    return asked_as(example).grade(TAGGED.format(answer), example)


@pytest.mark.parametrize("task", OPEN)
def test_judges_are_balanced_and_only_the_right_verdict_is_paid(task):
    made = curriculum.formed(examples(task, 1000), ("judge",), seed=3)
    assert 450 < sum(example.answer for example in made) < 550
    for example in made[:60]:
        right, wrong = ("yes", "no") if example.answer else ("no", "yes")
        assert (grade(example, right).score, grade(example, wrong).score) == (1.0, 0.0)
        assert grade(example, "").decided_by == grade(example, "yes or no").decided_by == "no_answer"
        assert asked_as(example).check_format(TAGGED.format(right), example) == (True, "")
        assert not asked_as(example).check_format(TAGGED.format("[1, 2, 3, 4]"), example)[0]
        assert (example.task, example.form) == (task, "judge")
        assert example.question.startswith(example.meta["open_question"])


@pytest.mark.parametrize("task", OPEN)
def test_a_judge_proposes_the_right_answer_exactly_when_yes_is_right(task):
    opened = examples(task, 60)
    for example, made in zip(opened, curriculum.formed(opened, ("judge",), seed=5), strict=True):
        assert made.meta["proposed"] in made.question
        assert is_right(example, made, made.meta["proposed"]) is made.answer


@pytest.mark.parametrize("task", OPEN)
def test_choices_pay_their_letters_and_nothing_else_and_letters_are_shuffled(task):
    opened = examples(task)
    made = curriculum.formed(opened, ("choice",), seed=3)
    letters = Counter(letter for example in made for letter in example.answer)
    expected: Counter = Counter()
    for example in made:
        num = len(example.meta["options"])
        expected.update(dict.fromkeys("ABCD"[:num], len(example.answer) / num))
    assert task == "spatial" or all(0.6 < letters[letter] / expected[letter] < 1.4 for letter in expected), letters
    for example, source in list(zip(made, opened, strict=True))[:60]:
        right = ", ".join(sorted(example.answer))
        assert grade(example, right).score == 1.0 and grade(example, right).correct
        assert asked_as(example).check_format(TAGGED.format(right), example) == (True, "")
        for letter, option in zip("ABCDEFGH", example.meta["options"], strict=False):
            assert f"\n({letter}) {option}" in example.question
            assert (letter in example.answer) == is_right(source, example, option)
            assert grade(example, letter).correct == (example.answer == {letter})
        assert grade(example, "E, F").score == 0.0 and grade(example, "").decided_by == "no_answer"


def is_right(opened, made, text):
    """Ask the open task itself about an option."""
    if opened.task == "classification":
        labels = frozenset(text.split(", "))
        return labels <= opened.answer if made.form == "choice" else labels == opened.answer
    if opened.task == "rec":
        found = get_task("rec").grade(TAGGED.format(list(made.meta["boxes_px"][text])), opened)
        assert found.score > 0.99 or found.score < 0.45, "a wrong box must be clearly wrong"
        return found.correct
    shown = f"\\boxed{{{text}}}" if opened.task in BOXED else TAGGED.format(text)
    return get_task(opened.task).grade(shown, opened).correct


def test_wrong_answers_are_plausible():
    counts = curriculum.formed(examples("counting"), ("choice",), seed=0)
    assert {int(option) for example in counts for option in example.meta["options"]} <= set(range(0, 9))
    assert all(max(abs(int(o) - e.meta["open_answer"]) for o in e.meta["options"]) <= 3 for e in counts)
    angles = curriculum.formed(examples("geometry"), ("choice",), seed=0)
    assert all(option.endswith("\u00b0") for example in angles for option in example.meta["options"])
    one = get_task("classification").example({"image": "a.jpg", "problem": "What?", "solution": "cat"}, "f:1")
    (made,) = curriculum.formed([one], ("choice",), seed=0)
    assert set(made.meta["options"]) <= {"bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear"} | {
        "zebra",
        "giraffe",
    }
    box = get_task("rec").example(
        {"image": "a", "problem": "?", "solution": [0, 0, 84, 84], "width": 84, "height": 84}, ""
    )
    (made,) = curriculum.formed([box], ("choice",), seed=0)
    assert all(0 <= side <= 84 for sides in made.meta["boxes_px"].values() for side in sides)
    near = replace(example_number("geometry", 0), meta={"near_misses": ["29\u00b0", "31\u00b0", "32\u00b0"]})
    (made,) = curriculum.formed([near], ("choice",), seed=0)
    assert sorted(made.meta["options"]) == ["29\u00b0", "30\u00b0", "31\u00b0", "32\u00b0"]


@pytest.mark.parametrize("form", ["judge", "choice"])
@pytest.mark.parametrize("task", OPEN)
def test_the_same_seed_and_example_give_the_same_question_wherever_it_stands(task, form):
    opened = examples(task, 40)
    first = curriculum.formed(opened, (form,), seed=1)
    assert curriculum.formed(opened[::-1], (form,), seed=1)[::-1] == first
    listed_already = task == "spatial" and form == "choice"
    assert (curriculum.formed(opened, (form,), seed=2) == first) == listed_already


def test_several_forms_share_the_examples_and_open_leaves_them_alone():
    opened = examples("counting")
    forms = Counter(example.form for example in curriculum.formed(opened, ("judge", "choice", "open"), seed=0))
    assert all(70 < forms[form] < 130 for form in ("judge", "choice", "open")), forms
    assert curriculum.formed(opened, ("open",), seed=0) == opened


def test_labels_give_one_or_several_right_letters_compared_as_sets():
    made = curriculum.formed(examples("classification"), ("choice",), seed=0)
    assert {len(example.answer) for example in made} == {1, 2, 3}
    two = next(example for example in made if len(example.answer) == 2)
    first, second = sorted(two.answer)
    assert grade(two, f"{second} and {first}").correct
    assert grade(two, first).score == 0.0
    paid = asked_as(two).grade(TAGGED.format(first), two, config=RewardConfig(jaccard=True))
    assert (paid.score, paid.correct) == (0.5, False)
    names = [two.meta["options"]["ABCD".index(letter)] for letter in (second, first)]
    assert grade(two, ", ".join(names)).correct and not grade(two, names[0]).correct


def test_the_text_of_the_right_option_counts_as_its_letter():
    made = curriculum.formed(examples("counting", 20), ("choice",), seed=0)
    for example in made:
        assert grade(example, str(example.meta["open_answer"])).correct
        assert not grade(example, str(example.meta["open_answer"] + 40)).correct


GIVEN = [
    ("judge", {"task": "math", "solution": "<answer>yes</answer>"}, True, "geometry"),
    ("judge", {"task": "detection", "solution": "<answer>No</answer>"}, False, "rec"),
    ("judge", {"task": "classify", "solution": "<thinking>x</thinking><answer>yes</answer>"}, True, "classification"),
    ("choice", {"task": "classify", "solution": "<answer>A, C</answer>"}, frozenset("AC"), "classification"),
    ("choice", {"task": "detection", "solution": "<answer>B</answer>"}, frozenset("B"), "rec"),
    ("choice", {"task": "coco_vqa", "solution": "C", "form": "choice"}, frozenset("C"), "coco_vqa"),
]


@pytest.mark.parametrize(("form", "fields", "answer", "task"), GIVEN)
def test_rows_that_are_a_judge_or_a_choice_are_read_as_they_are(form, fields, answer, task):
    row = {"image": "a.jpg", "problem": "Is it so?", **fields}
    example = curriculum.example_of(row, "f:1", row["task"], (form,))
    assert (example.form, example.answer, example.task, example.question) == (form, answer, task, "Is it so?")
    assert curriculum.formed([example], (form,), seed=0) == [example]
    assert grade(example, asked_as(example).show(answer)).correct


@pytest.mark.parametrize(
    ("task", "solution", "answer"),
    [
        ("detection", "<thinking>t</thinking><answer>[1, 2, 30, 40]</answer>", (1.0, 2.0, 30.0, 40.0)),
        ("classify", "<thinking>t</thinking><answer>cat, traffic light</answer>", frozenset({"cat", "traffic light"})),
        ("math", "<thinking>t</thinking><answer>45</answer>", "45"),
        ("coco_vqa", "<thinking>t</thinking><answer>two dogs</answer>", ("two dogs",)),
    ],
)
def test_open_rows_of_the_third_stage_are_read(task, solution, answer):
    row = {"image": "a.jpg", "problem": "Q?", "solution": solution, "task": task}
    example = curriculum.example_of(row, "f:1", task, ("open",))
    assert (example.form, example.answer) == ("open", answer)


def test_the_options_of_a_given_choice_are_shown_once():
    row = {"image": "a.jpg", "question": "Long?", "options": ["1 cm", "2 cm"], "answer": "B"}
    example = curriculum.example_of(row, "f:1", "math_boxed", ("choice",))
    assert example.question == "Long?\n(A) 1 cm\n(B) 2 cm" and example.answer == {"B"}
    assert grade(example, "2 cm").correct and not grade(example, "1 cm").correct


def test_an_example_without_a_wrong_answer_is_refused():
    with pytest.raises(ValueError, match=r"f\.json:0: no wrong answer can be made of .*open form"):
        curriculum.formed([example_number("coco_vqa", 0)], ("choice",), seed=0)


def test_boxes_in_a_question_are_written_in_the_models_units():
    (made,) = curriculum.formed([example_number("rec", 0)], ("judge",), seed=0)
    ask = asked_as(made).messages
    assert made.meta["proposed"] in ask(made)[0]["content"][-1]["text"]
    seen = ask(made, views=[View((200, 100), (400, 400), "seen_px")])[0]["content"][-1]["text"]
    ((text, (x1, y1, x2, y2)),) = made.meta["boxes_px"].items()
    assert f"[{round(2 * x1)}, {round(4 * y1)}, {round(2 * x2)}, {round(4 * y2)}]" in seen and text not in seen


def test_prompts_of_forms_ask_for_the_form_and_a_task_may_have_its_own():
    (judged,) = curriculum.formed([example_number("counting", 0)], ("judge",), seed=0)
    (chosen,) = curriculum.formed([example_number("counting", 0)], ("choice",), seed=0)
    assert "only yes or no" in asked_as(judged).messages(judged)[0]["content"][-1]["text"]
    assert "letter" in asked_as(chosen).messages(chosen, "baseline")[0]["content"][-1]["text"]
    own = {**built_in(), "counting": {"judge": {"r1": "Count, then judge: {question}"}}}
    assert asked_as(judged).messages(judged, templates=own)[0]["content"][-1]["text"].startswith("Count, then")


def test_rewards_follow_the_form_not_the_task():
    (judged,) = curriculum.formed([example_number("rec", 0)], ("judge",), seed=0)
    right = asked_as(judged).show(judged.answer)
    box = TAGGED.format('{"bbox_2d": [10, 20, 90.5, 100]}')
    group = group_of(judged, [TAGGED.format(right), box])
    rewards.score(group, [rewards.load_reward(n) for n in ("accuracy", "format")], RewardConfig())
    assert group.rewards.tolist() == [2.0, 0.0]
    assert all(value != value for value in rewards.json_box(group, RewardConfig()))


def group_of(example: Example, texts):
    import numpy as np

    ids = np.zeros(3, np.int64)
    done = [Completion(ids, ids.astype(np.float32), text, True) for text in texts]
    return Group(example, Prompt(ids, np.zeros((3, 3), np.int64), 3), done)


def test_classification_wants_the_very_set_and_pays_the_common_part():
    cat_dog = get_task("classify").example({"image": "a", "problem": "?", "solution": "cat, traffic light"}, "f:1")
    assert grade(cat_dog, "Traffic light; CAT").correct
    over = grade(cat_dog, "cat, traffic light, bus")
    assert (over.score, over.correct) == (pytest.approx(2 / 3), False)
    assert grade(cat_dog, "traffic, light, cat").score == pytest.approx(1 / 4)
    assert grade(cat_dog, '["cat", "traffic light"]').correct


def test_vqa_compares_words_without_case_articles_and_number_words():
    example = get_task("coco_vqa").example({"image": "a", "problem": "?", "solution": ["two dogs", "2 puppies"]}, "f:1")
    assert grade(example, "The 2 dogs.").correct and grade(example, "Two puppies").correct
    assert grade(example, "dogs").score == pytest.approx(2 / 3) and not grade(example, "dogs").correct
    assert grade(example, "three cats").score == 0.0 and grade(example, "the").decided_by == "no_answer"
    assert grade(example, "dogs two").score < 1.0
