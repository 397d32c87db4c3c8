# SPDX-License-Identifier: Apache-2.0
"""The one number a short text states: "9", "**9.0**", "There are nine objects", "1,234"; exact, as a Fraction."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from .markup import strip_markup

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_CHINESE = "\u96f6\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d\u5341"  # the characters of 0 to 10
_WORDS = {word: i for i, word in enumerate(_UNITS)} | {word: 20 + 10 * i for i, word in enumerate(_TENS)}

_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.])([-+]?)(\d{1,3}(?:,\d{3}){1,12}(?!\d)(?:\.\d{1,40})?|\d{1,400}(?:\.\d{1,40})?|\.\d{1,40})"
    r"(e[-+]?\d{1,3}(?![A-Za-z0-9]))?(\s?%)?"
)
_WORD = re.compile(rf"\b({'|'.join(_TENS)})(?:[- ]({'|'.join(_UNITS[1:10])}))?\b|\b({'|'.join(_UNITS)})\b")
_NOT_EQUAL = re.compile(
    r"\bnot\b|\bcannot\b|n't\b|\b(?:more|less|fewer|greater|larger|smaller) than\b|\bat (?:least|most)\b"
    r"|\b(?:over|under|above|below)\b|[<>\u2264\u2265\u2260]"
    r"|\b(?:hundreds?|thousands?|millions?|billions?|dozens?|half)\b"  # words that change the number before them
)
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b")
_MAX_CHARS = 2_000


def single_number(text: str) -> Fraction | None:
    """Read the number a text states; None when it states none, several different ones, or only what it is not."""
    if len(text) > _MAX_CHARS:
        return None
    text = strip_markup(unicodedata.normalize("NFKC", text)).lower().replace("\u2212", "-")
    if text in ("none", "no", "nothing at all"):
        return Fraction(0)
    if len(text) == 1 and text in _CHINESE:
        return Fraction(_CHINESE.index(text))
    if _NOT_EQUAL.search(text):
        return None
    text = re.sub(r"\b(?:minus|negative)\s{1,4}(?=\d)", "-", text)
    found = set(_digits(text)) | set(_words(text))
    return found.pop() if len(found) == 1 and None not in found else None


def _digits(text: str):
    """Yield each number written in digits; None for one that cannot be an amount (a fraction's part, an ordinal)."""
    for match in _NUMBER.finditer(text):
        sign, digits, exponent, percent = match.groups()
        after = text[match.end() : match.end() + 2]
        glued_before = match.start() > 0 and text[match.start() - 1] in "/^:\\"
        if glued_before or (after[:1] in ("/", "^", ":") and after[1:].isdigit()) or _ORDINAL.match(after):
            yield None
            continue
        if sign and match.start() > 0 and text[match.start() - 1].isdigit():
            sign = ""  # the dash of a range
        value = Fraction(sign + digits.replace(",", "") + (exponent or ""))
        yield value / 100 if percent else value


def _words(text: str):
    for tens, unit, alone in _WORD.findall(text):
        yield Fraction(_WORDS[alone] if alone else _WORDS[tens] + _WORDS.get(unit, 0))
