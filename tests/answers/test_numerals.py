# SPDX-License-Identifier: Apache-2.0
import time
from fractions import Fraction

import pytest

from r1_mllm.answers.numerals import single_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9", 9),
        (" 9.0 ", 9),
        ("**9**", 9),
        ("$9$", 9),
        ("\\boxed{9}", 9),
        ("9.", 9),
        (".5", Fraction(1, 2)),
        ("9 cubes", 9),
        ("There are 9 objects in the picture.", 9),
        ("nine (9)", 9),
        ("twenty-one", 21),
        ("-9", -9),
        ("minus 9", -9),
        ("1,234,567", 1234567),
        ("9e0", 9),
        ("9%", Fraction(9, 100)),
        ("\uff19", 9),
        ("\u4e5d", 9),
        ("none", 0),
    ],
)
def test_one_number_is_read(text, number):
    assert single_number(text) == number


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "many",
            "9 or 10",
            "between 8 and 10",
            "8-10",
            "not 9",
            "more than 9",
            "at least 9",
            "9/3",
            "9th",
            "9:30",
        ),
        *("9,5", "H2O", "x9", "inf", "nan", "one hundred", "2 dozen", "3 + 6 = 9", "9" * 5000),
    ],
)
def test_several_or_no_numbers_are_no_answer(text):
    assert single_number(text) is None


def test_long_texts_are_read_quickly():
    started = time.process_time()
    for text in ("1,1" * 600, "1" * 1900, "twenty-" * 280, "-" * 1900):
        single_number(text)
    assert time.process_time() - started < 0.5
