# SPDX-License-Identifier: Apache-2.0
import pytest

from r1_mllm.answers import latex
from r1_mllm.answers.worker import MathVerifier


@pytest.fixture(scope="module")
def verify():
    verifier = MathVerifier(timeout=3.0)
    yield verifier.verify
    verifier.close()


EQUAL = [
    *[("140\u00b0", "140"), ("\u221a3/2", r"\frac{\sqrt3}{2}"), ("3 cm", "3"), ("0.05", "5%"), ("50\\%", "1/2")],
    *[
        ("2sqrt(3)", "2\u221a{3}"),
        ("9\u221a{3}m", "9\u221a{3}"),
        ("9\u221a{3}\u7c73", "9\u221a{3}m"),
        ("3pi", "3\u03c0"),
    ],
    *[("9 cm^2", "9cm\u00b2"), ("9 square cm", "9cm^{2}"), ("5 apples", "5"), ("30 degrees", "30\u00b0"), ("5m", "5")],
    *[("x=1 or x=2", r"\{1,2\}"), ("1 and 2", "1, 2"), ("2, 1", "1, 2"), ("2+3=5", "5"), ("x = 2+3 = 5", "5")],
    *[("AB = 5 cm", "5cm"), (r"\angle ABC = 40^\circ", "40"), ("The angle is 40 degrees.", "40\u00b0"), ("3:4", "3/4")],
    *[(r"1\frac{1}{2}", "3/2"), ("1 1/2", "1.5"), ("0.6666666667", "2/3"), (r"22+12\sqrt{2}", r"12\sqrt 2 + 22")],
    *[("y^2+x^2=1", "x^2+y^2=1"), ("Red.", "red"), ("2^{10}", "1024"), ("5!", "120"), (".5", "1/2"), ("$5", "5")],
    *[
        ("1,234.5", "1234.5"),
        (r"10\,000", "10000"),
        ("1{,}000", "1000"),
        (r"\frac{1}{2}\%", "0.005"),
        ("60 km/h", "60"),
    ],
    *[
        ("B) 40", "B"),
        ("The answer is C", "C"),
        (r"\text{(D)}", "D"),
        ("1e3", "1000"),
        ("3\u00d74", "12"),
        ("3<x", "x>3"),
    ],
]
DIFFERENT = [
    *[("5", "5%"), ("5%", "5"), ("1", "12"), ("15", "5"), ("-5", "5"), ("", ""), (" ", "5"), ("?", "5"), ("nan", "1")],
    *[("5 4 3 2 1 0 5", "5"), ("42 or 43 or 44", "42"), ("1, 2", "5"), ("4951077, 2, 3", "4951077"), ("not 5", "5")],
    *[(r"\boxed{3} \boxed{5}", "5"), ("5=6", "6"), ("5=6", "5"), ("2+4=5", "5"), ("y=5", "x=5"), ("2x=10", "10")],
    *[("2x", "2"), ("5ab", "5"), ("5 million", "5"), ("9 cm", "9cm^{2}"), ("5 km", "5 m"), ("12 cm by 4 cm", "12")],
    *[
        ("[1,2]", "(1,2)"),
        ("(2,1)", "(1,2)"),
        ("2,1", "(1,2)"),
        ("0.6667", "2/3"),
        ("dark red", "red"),
        ("B or C", "B"),
    ],
    *[
        ("1+" * 120 + "1", "1"),
        ("1/" * 200 + "1", "1"),
        (r"10^{10^{10}}", "1"),
        ("__import__('os')", "1"),
        ("9-10", "9"),
    ],
    *[("10.0", "10\u221a{2}"), ("2.0", "2\u221a{2}-2"), ("3", "3\u221a{3}cm"), ("1/0", "1")],
]


@pytest.mark.parametrize(("answer", "gold"), EQUAL)
def test_other_spellings_of_the_same_value_are_equal(answer, gold, verify):
    assert latex.equivalent(answer, gold, verify)[0]


@pytest.mark.parametrize(("answer", "gold"), DIFFERENT)
def test_other_values_and_several_candidates_are_not(answer, gold, verify):
    assert not latex.equivalent(answer, gold, verify)[0]


def test_text_and_numbers_need_no_worker():
    def never(gold, answer):
        raise AssertionError("the worker was asked")

    assert latex.equivalent("2/4", "0.5", never) == (True, "numeric")
    assert latex.equivalent("41", "42", never) == (False, "numeric")
    assert latex.equivalent("$x+1$", "x + 1", never) == (True, "exact")
    assert latex.equivalent("9" * 300, "9", never) == (False, "too_long")
    assert latex.equivalent("9^{9^{9^{9}}}", "1", never) == (False, "refused")


def test_a_timeout_is_named():
    assert latex.equivalent("x!", "y+x", lambda gold, answer: "timeout") == (False, "timeout")
