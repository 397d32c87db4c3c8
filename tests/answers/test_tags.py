# SPDX-License-Identifier: Apache-2.0
import time

import pytest

from r1_mllm.answers import tags


def test_both_parts_are_read():
    parts = tags.split("<think>a b</think>\n<answer> 3 </answer>")
    assert (parts.think, parts.answer, parts.ok, parts.reason) == ("a b", " 3 ", True, "")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>t</think><answer>1</answer><answer>2</answer>", "2"),
        ("<answer>2</answer><think>t</think>", "2"),
        ("<think>so <answer>1</answer></think>", None),
        ("<think>so <answer>1</answer></think><answer>2", None),
        ("<think>never closed <answer>2</answer>", "2"),
        ("<think>t</think><answer><answer>2</answer></answer>", "2"),
        ("<think>t</think><answer>2", None),
        ("2", None),
    ],
)
def test_the_last_complete_answer_outside_the_thinking_counts(text, answer):
    assert tags.split(text).answer == answer


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<think>t</think><answer>3</answer>\n", ""),
        ("<think>t</think><answer>3</answer><|im_end|>", ""),
        ("<think>t</think><answer> </answer>", "empty answer"),
        ("x <think>t</think><answer>3</answer>", "text before the thinking part"),
        ("<think>t</think>x<answer>3</answer>", "text between the parts"),
        ("<think>t</think><answer>3</answer> x", "text after the answer part"),
        ("<answer>3</answer>", "not exactly one thinking part followed by one answer part"),
    ],
)
def test_the_failed_check_is_named(text, reason):
    parts = tags.split(text)
    assert (parts.ok, parts.reason) == (not reason, reason)


def test_a_hundred_thousand_tags_take_under_a_second():
    started = time.process_time()
    tags.split("<think><answer>" * 100_000)
    assert time.process_time() - started < 1


def test_gold_text_is_read_with_and_without_tags():
    assert tags.unwrap("<answer> 4 </answer>") == tags.unwrap("4 ") == "4"
