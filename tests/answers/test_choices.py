# SPDX-License-Identifier: Apache-2.0
import pytest

from r1_mllm.answers import choices


@pytest.mark.parametrize(
    "text",
    ["B", "b", "(B)", "B.", "B)", "Option B", "The answer is B.", "**B**", "\\boxed{B}", "B. the red car",
     "B, because C is wrong", "$\\text{(B)}$", "\uff22", "\u9009\u9879B"],
)  # fmt: skip
def test_one_letter_is_read(text):
    assert choices.letter(text) == "B"


@pytest.mark.parametrize(
    "text",
    ["", "B or C", "B, C", "B. dog or C. cat", "Because of the light", "A cat", "a car", "the left one", "not B", "2",
     "I think so"],
)  # fmt: skip
def test_no_or_several_letters_are_no_choice(text):
    assert choices.letter(text) is None


@pytest.mark.parametrize("text", ["A,C", "C, A", "AC", "A C", "A and C", "[A, C]", "a,c", "A,C,A", "(A) (C)", "A; C"])
def test_sets_of_letters_have_no_order(text):
    assert choices.letters(text) == {"A", "C"}


@pytest.mark.parametrize("text", ["", "A, X", "CAAC", "cats and dogs"])
def test_other_texts_are_no_set_of_letters(text):
    assert choices.letters(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[(text, True) for text in ("yes", "YES!", "Yes, the cup is red.", '"yes"', "true", "Yes, no doubt")],
        *[(text, False) for text in ("no.", "**No**", "not correct", "That is not correct.", "incorrect", "no no no")],
        *[(text, None) for text in ("", "know", "I cannot know", "eyes", "nothing", "yes and no", "maybe", "42")],
    ],
)
def test_verdicts_come_from_closed_sets(text, expected):
    assert choices.verdict(text) is expected
