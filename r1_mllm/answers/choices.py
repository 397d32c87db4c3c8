# SPDX-License-Identifier: Apache-2.0
"""Option letters and yes/no verdicts, from closed sets: nothing that merely contains the letter or the word counts."""

from __future__ import annotations

import re
import unicodedata

from .markup import strip_markup

_OPTION_WORD = r"(?:(?:option|choice|answer|letter|\u9009\u9879|\u7b54\u6848)\s{0,3}[:\uff1a]?\s{0,3})"
_WHOLE = re.compile(rf"{_OPTION_WORD}?[(\[{{]?\s?([A-Za-z])\s?[)\]}}]?[.:]?", re.IGNORECASE)
_LEADING = re.compile(rf"{_OPTION_WORD}?[(\[]?([A-Z])\s?([)\].:\uff1a,])\s{{0,3}}(?=\S\S)")
_STATED = re.compile(
    r"\b(?:answer|option|choice)\s{1,3}(?:is|would be|should be)\s?:?\s{0,3}"
    r"(?:option\s{1,3})?[(\[]?([A-Za-z])[)\]]?(?![\w'])",
    re.IGNORECASE,
)
_STANDALONE = re.compile(r"(?<![\w'\u2019])([A-Z])(?![\w'\u2019])")
_NEGATION = re.compile(r"\bnot\b|n't\b|\bneither\b|\bexcept\b", re.IGNORECASE)
_SEPARATOR = re.compile(r"\s*(?:[,;/|&+\u3001\u548c]|\band\b|\s|[()\[\]{}.'\"])\s*", re.IGNORECASE)
_MAX_CHARS = 1_000

_YES = frozenset({"yes", "yeah", "yep", "true", "correct", "right", "\u662f", "\u5bf9", "\u6b63\u786e"})
_NO = frozenset(
    {"no", "nope", "false", "incorrect", "wrong", "not correct", "not true", "not right"}
    | {"\u5426", "\u4e0d", "\u9519\u8bef"}
)
_VERDICT_LEAD = re.compile(r"(yes|no)\s?[,.:;!\-](.*)", re.DOTALL)


def letter(text: str) -> str | None:
    """Read the one option letter a text chooses, upper case; None when it chooses none or several."""
    text = _plain(text)
    if text is None:
        return None
    if match := _WHOLE.fullmatch(text):
        return match.group(1).upper()
    if _NEGATION.search(text) and not _LEADING.match(text):
        return None
    if match := _LEADING.match(text):
        return _leading(match, text[match.end() :])
    stated = {found.upper() for found in _STATED.findall(text)}
    if len(stated) == 1:
        return stated.pop()
    found = _standalone(text)
    return found.pop() if len(found) == 1 else None


def letters(text: str, options: str = "ABCDEFGH") -> frozenset[str] | None:
    """Read a set of option letters ("A, C", "AC", "(C) and (A)"); None when the text is anything else."""
    text = _plain(text)
    if text is None:
        return None
    pieces = [piece for piece in _SEPARATOR.split(text) if piece]
    if pieces and all(len(piece) == 1 for piece in pieces):
        found = frozenset(piece.upper() for piece in pieces)
        return found if found <= set(options) else None
    if len(pieces) == 1 and pieces[0].isupper() and len(set(pieces[0])) == len(pieces[0]):
        return frozenset(pieces[0]) if set(pieces[0]) <= set(options) else None
    one = letter(text)
    if one:
        return frozenset(one)
    found = _standalone(text)
    return frozenset(found) if found and not _NEGATION.search(text) else None


def verdict(text: str) -> bool | None:
    """Read a yes (True) or a no (False); None for anything else, a contradiction included."""
    text = _plain(text)
    if text is None:
        return None
    text = text.lower().strip("!?. ")
    if text in _YES or text in _NO:
        return text in _YES
    words = re.findall(r"[a-z']+", text)
    if len(words) > 1 and len(set(words)) == 1 and words[0] in ("yes", "no"):
        return words[0] == "yes"
    if re.fullmatch(r"(?:that|it|this) is (?:not (?:correct|true|right)|incorrect|false|wrong)", text):
        return False
    if match := _VERDICT_LEAD.fullmatch(text):
        opposite = "no" if match.group(1) == "yes" else "yes"
        contradicted = re.search(rf"\b{opposite}\b(?!\s(?:doubt|question|problem))", match.group(2))
        return None if contradicted else match.group(1) == "yes"
    stated = re.fullmatch(r"(?:the )?(?:final |correct )?answer(?: is|:)\s?:?\s?(yes|no)", text)
    return stated.group(1) == "yes" if stated else None


def _plain(text: str) -> str | None:
    if len(text) > _MAX_CHARS:
        return None
    return strip_markup(unicodedata.normalize("NFKC", text)).strip("*_ ") or None


def _leading(match: re.Match, rest: str) -> str | None:
    """Judge "B. the red car" (an answer) against "B, C" and "B. dog or C. cat" (two candidates)."""
    first = match.group(1)
    if match.group(2) == "," and not re.match(r"[a-z]{2,}", rest):
        return None
    if re.match(r"(?:or|and)\b|[&/]", rest, re.IGNORECASE):
        return None
    others = set(re.findall(r"(?<![\w'])[(\[]?([A-Z])[.):\]](?!\w)", rest)) | set(
        re.findall(r"\bor\s(?:option\s)?([A-Z])(?!\w)", rest)
    )
    return first if not others - {first} and not re.fullmatch(r"[A-Z]\W*", rest) else None


def _standalone(text: str) -> set[str]:
    """Find upper-case letters standing alone, the article "A" and the pronoun "I" left out."""
    found = set()
    for match in _STANDALONE.finditer(text):
        after = text[match.end() : match.end() + 3]
        is_word = match.group() in "AI" and re.match(r"\s[a-z]{2}", after) and not re.match(r"\s(?:or|an)", after)
        if not is_word:
            found.add(match.group())
    return found
