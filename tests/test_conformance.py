# SPDX-License-Identifier: Apache-2.0
"""What every implementation of these tasks must do, one assertion per row of the list the project started from.

Each row stands for a defect somebody's system has; the trainer's rows are in tests/training/test_conformance.py.
"""

import threading

import numpy as np
import pytest

from r1_mllm import rewards
from r1_mllm.answers import boxes, choices, labels
from r1_mllm.config import GrpoConfig, RewardConfig, RolloutConfig
from r1_mllm.data.mixture import parse_strategy
from r1_mllm.data.stream import Stream
from r1_mllm.evaluation.scoring import grade_line
from r1_mllm.records import Completion, Example, Group, Prompt, View
from r1_mllm.tasks import get_task

TAGGED = "<think>t</think><answer>{}</answer>"
BOX_PX = (100.0, 50.0, 300.0, 250.0)


def grade(task, answer, text, views=()):
    return get_task(task).grade(text, Example(task, "q", answer), views)


def form(task, text):
    return get_task(task).check_format(text, Example(task, "q", None))[0]


@pytest.mark.parametrize(
    ("a", "b", "overlap"),
    [
        ((10, 20, 11, 50), (10, 20, 11, 50), 1.0),
        ((5, 5, 5, 5), (5, 5, 5, 5), 0.0),
        ((0, 0, 1, 1), (0, 0, 1, 1), 1.0),
    ],
)
def test_overlap_is_continuous_and_safe(a, b, overlap):
    assert boxes.iou(a, b) == overlap


def test_a_box_of_fractions_without_braces_is_an_answer_in_form():
    text = TAGGED.format("[100.0, 50.0, 300.0, 250.0]")
    assert grade("rec", BOX_PX, text).score == 1.0 and form("rec", text)


@pytest.mark.parametrize(
    ("written", "units"),
    [
        ([100.625, 49.583333, 301.875, 247.916667], "seen_px"),
        ([156.25, 104.1666667, 468.75, 520.8333333], "per_mille"),
    ],
)
def test_boxes_return_from_the_space_the_family_writes_in(written, units):
    view = View(original_wh=(640, 480), seen_wh=(644, 476), box_units=units)
    assert grade("rec", BOX_PX, TAGGED.format(written), (view,)).score == pytest.approx(1.0, abs=1e-6)


def test_a_trailing_newline_is_in_form_and_a_second_answer_is_not():
    assert form("counting", TAGGED.format(3) + "\n")
    assert not form("counting", TAGGED.format(3) + "<answer>4</answer>")


@pytest.mark.parametrize("task", ["counting", "geometry"])
def test_a_wrong_number_earns_nothing(task):
    assert grade(task, 50 if task == "counting" else "50", TAGGED.format(45)).score == 0


def test_verdicts_are_whole_words_and_two_silences_do_not_agree():
    assert choices.verdict("know") is None
    assert not grade_line("judge", {"model_output": "no idea", "ground_truth": "no"}, "x:1").correct
    with pytest.raises(ValueError, match=r"x:1: answer .. is no answer"):
        grade_line("judge", {"model_output": "", "ground_truth": ""}, "x:1")


def test_an_article_is_no_option_and_sets_have_no_order():
    assert choices.letter("A cat") is None
    assert choices.letters("A, C") == choices.letters("C and A")


def test_labels_of_two_words_stay_whole():
    assert labels.jaccard(labels.parse("traffic light, car"), labels.parse("car, traffic light")) == 1


def test_the_answer_counts_and_not_the_thinking():
    assert grade("geometry", "120", "<think>so it is 120</think><answer>140</answer>").score == 0


@pytest.mark.parametrize(
    ("answer", "gold"), [("140\u00b0", "140"), ("\u221a3/2", "\\frac{\\sqrt3}{2}"), ("3 cm", "3"), ("140", "140\u00b0")]
)
def test_units_and_spellings_do_not_matter(answer, gold):
    assert grade("geometry", gold, TAGGED.format(answer)).score == 1


def test_without_a_box_the_three_valued_reward_is_minus_one():
    texts = ["<think>t</think> 45", "<think>t</think> \\boxed{44}", "<think>t</think> \\boxed{45}"]
    completions = [Completion(np.zeros(2, np.int64), np.zeros(2, np.float32), text, True) for text in texts]
    prompt = Prompt(np.zeros(2, np.int64), np.zeros((3, 2), np.int64), 2)
    group = Group(Example("math_boxed", "q", "45"), prompt, completions)
    assert rewards.ternary(group, RewardConfig()).tolist() == [-1, 0, 1]


def test_a_thread_gets_the_verdict_of_the_main_thread():
    found = []

    def work():
        found.append(grade("geometry", "\\frac{\\sqrt{3}}{2}", TAGGED.format("0.5\\sqrt{3}")).correct)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    work()
    assert found == [True, True]


def test_one_completion_per_prompt_is_refused_by_name():
    with pytest.raises(ValueError, match="num_generations 1"):
        GrpoConfig(rollout=RolloutConfig(num_generations=1))


def test_two_ranks_never_share_a_prompt():
    streams = [Stream(12, 2, 7, rank, 2) for rank in range(2)]
    for _ in range(3):
        first, second = (set(stream.next()) for stream in streams)
        assert len(first) == len(second) == 2 and not first & second


def test_the_same_seed_draws_the_same_tenth():
    choose = parse_strategy("random:10%")
    draws = [choose(50, np.random.default_rng(seed))[0].tolist() for seed in (3, 3, 4)]
    assert len(draws[0]) == 5 and draws[0] == draws[1] != draws[2]
