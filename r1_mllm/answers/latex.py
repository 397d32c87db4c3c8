# SPDX-License-Identifier: Apache-2.0
"""Equality of mathematical answers: the same text, then the same exact number, then math-verify in its worker.

Only the answer's own text comes here.  Several different candidates equal nothing; a unit, a degree sign or a name on
the left of an equals sign changes nothing; 5 and 5% differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from . import choices
from .expression import Expression, read
from .numerals import single_number
from .worker import Verdict

MAX_CHARS = 256
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4,}")
_REFUSED = re.compile(
    r"\d{41}"  # longer numbers than any answer has
    r"|\^\{?\s*-?\d{5,}"  # exponents that take all memory
    r"|\^\{?\s*\d+\s*\^"  # towers of them
    r"|\d{5,}\s*!|!\s*!"  # factorials likewise
    r"|!\s*[)}]+\s*!|\\[dt]?binom\s*\{\s*(?:\d{4,}|\d+\s*\^)"
    r"|\\(?:i*int|oint|lim)(?![a-z])"  # what would have to be integrated is no answer yet
    r"|\d\s+\.?\d"  # several numbers
    r"|__|[^\x00-\x7f]"
)
_EQUATION = re.compile(r"(?<![<>!:])=")
_SENTENCE = re.compile(r"[A-Za-z0-9 .,'%\u00b0-]+")
_MAX_DEPTH = 20


def equivalent(answer: str, gold: str, verify: Callable[[str, str], Verdict]) -> tuple[bool, str]:
    """Tell whether an answer equals the gold one, and which rule said so.

    Args:
        verify: (gold, answer) -> verdict; asked last, with prepared LaTeX.

    Returns:
        (equal, rule), rule one of no_answer, too_long, exact, choice, numeric, unit, candidates, text, refused,
        math_verify, timeout, crash.
    """
    if not answer.strip():
        return False, "no_answer"
    if len(answer.strip()) > MAX_CHARS:
        return False, "too_long"
    mine, wanted = read(answer), read(gold)
    if mine is None or wanted is None or not mine.text:
        return False, "candidates" if mine is None else "no_answer"
    if re.fullmatch(r"[A-H]", wanted.text):
        return choices.letter(answer) == wanted.text, "choice"
    if _clashes(mine, wanted):
        return False, "unit"
    if not mine.steps and _same_text(mine, wanted):
        return True, "exact"
    return _by_value(mine, wanted, verify)


def _clashes(a: Expression, b: Expression) -> bool:
    """Two different units, or two different names before the equals sign."""
    return bool(a.unit and b.unit and a.unit != b.unit) or bool(a.name and b.name and a.name != b.name)


def _same_text(a: Expression, b: Expression) -> bool:
    if a.percent != b.percent:
        return False
    mine, wanted = re.sub(r"\s", "", a.text), re.sub(r"\s", "", b.text)
    return mine == wanted or (_WORD.search(wanted) is not None and mine.casefold() == wanted.casefold())


def _by_value(mine: Expression, wanted: Expression, verify: Callable[[str, str], Verdict]) -> tuple[bool, str]:
    if wanted.number is not None:
        number = mine.number if mine.number is not None else _stated(mine.text)
        if number is not None and not (mine.steps and _numbers_agree(number, wanted.number)):
            return _numbers_agree(number, wanted.number), "numeric"
    if mine.is_list != wanted.is_list and "\\pm" not in mine.text + wanted.text:
        return False, "candidates"
    if not mine.is_list and bool(_EQUATION.search(mine.text)) != bool(_EQUATION.search(wanted.text)):
        return False, "candidates"
    if _WORD.search(mine.text) or _WORD.search(wanted.text):
        return False, "text"
    if _REFUSED.search(mine.latex) or _depth(mine.latex) > _MAX_DEPTH:
        return False, "refused"
    for step in mine.steps:  # "5 = 6" is no answer
        if _REFUSED.search(step) or verify(wanted.latex, step) != "equal":
            return False, "candidates"
    verdict = verify(wanted.latex, mine.latex)
    return verdict == "equal", verdict if verdict in ("timeout", "crash") else "math_verify"


def _stated(text: str) -> Fraction | None:
    """Read the one number of a plain sentence ("The angle is 40 degrees")."""
    is_sentence = _SENTENCE.fullmatch(text) and len(re.findall(r"[A-Za-z]{2,}", text)) >= 2
    return single_number(text) if is_sentence else None


def _numbers_agree(a: Fraction, b: Fraction) -> bool:
    """Exactly equal, or a decimal of ten digits for a fraction that has no finite one."""
    return a == b or abs(a - b) * 10**10 <= abs(b)


def _depth(text: str) -> int:
    deepest = depth = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest
