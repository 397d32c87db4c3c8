# SPDX-License-Identifier: Apache-2.0
"""Which of the options of a multiple-choice question a text chooses: by letter, by the option's words, or by a number.

A substring of an option is not the option, two options are no choice, and a letter that contradicts the words beside it
is none either.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from . import choices, numerals
from .markup import strip_markup

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ARTICLE = re.compile(r"^(?:the|a|an)\s+")
_NEGATION = re.compile(r"\b(?:not|neither|nor|except|cannot)\b|n['\u2019]t\b")
_LETTER_LEAD = re.compile(r"^[(\[]?([A-Za-z])[)\].:]+\s+(?=\S)")
_MAX_CHARS = 1_000
NO_OPTION = "no_option"


def chosen(text: str, options: Sequence[str]) -> tuple[int | None, str]:
    """Read which option a text chooses.

    Args:
        options: in the order of their letters, (A) first; at most 26, no two of them the same words.

    Returns:
        The option's index and the rule that found it ("text", "letter", "verdict", "numeric", "mention"), or None and
        "no_option".
    """
    if len(text) > _MAX_CHARS:
        return None, NO_OPTION
    names = [plain(option) for option in options]
    said = plain(text)
    if said in names:
        return names.index(said), "text"
    by_letter = _by_letter(text, names)
    if by_letter is not None:
        return by_letter if by_letter[0] is not None else (None, NO_OPTION)
    if set(names) == {"yes", "no"} and (verdict := choices.verdict(text)) is not None:
        return names.index("yes" if verdict else "no"), "verdict"
    amounts = [numerals.single_number(option) for option in options]
    if None not in amounts:
        number = numerals.single_number(text)
        return (amounts.index(number), "numeric") if number in amounts else (None, NO_OPTION)
    found = _mentioned(said, names)
    return (found, "mention") if found is not None else (None, NO_OPTION)


def letter_index(text: str) -> int | None:
    """Read a gold letter ("(B)", "B") as an index."""
    found = choices.letter(text)
    return None if found is None else LETTERS.index(found)


def plain(text: str) -> str:
    """The words of an option or answer: no markup, case, article at the front or punctuation at the ends."""
    return _ARTICLE.sub("", " ".join(strip_markup(text).casefold().strip("()[] ").split()))


def _by_letter(text: str, names: Sequence[str]) -> tuple[int | None, str] | None:
    """The option whose letter a text gives; (None, ...) for one out of range or contradicted; None: no letter."""
    found = choices.letter(text)
    if found is None:
        return None
    index = LETTERS.index(found)
    if index >= len(names):
        return None, NO_OPTION
    lead = _LETTER_LEAD.match(strip_markup(text))
    rest = plain(strip_markup(text)[lead.end() :]) if lead else plain(text)
    others = [name for i, name in enumerate(names) if i != index and (len(name) > 1 or name.isdigit())]
    contradicted = not _spans(names[index], rest) and any(_spans(name, rest) for name in others)
    return (None, NO_OPTION) if contradicted else (index, "letter")


def _mentioned(said: str, names: Sequence[str]) -> int | None:
    """The one option whose words a sentence holds, nothing being denied; words inside a longer option do not count."""
    if _NEGATION.search(said):
        return None
    spans = [(i, *span) for i, name in enumerate(names) for span in _spans(name, said)]
    covered = [
        (i, start, end)
        for i, start, end in spans
        if not any(a <= start and end <= b and (a, b) != (start, end) for _, a, b in spans)
    ]
    found = {i for i, _, _ in covered}
    return found.pop() if len(found) == 1 else None


def _spans(name: str, said: str) -> list[tuple[int, int]]:
    """Where the words of an option stand in a text, as whole words."""
    return [match.span() for match in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", said)] if name else []
