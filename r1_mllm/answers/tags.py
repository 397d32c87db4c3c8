# SPDX-License-Identifier: Apache-2.0
"""Split a completion into its thinking part and its answer part, and say whether it has the form that was asked for."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

_TAG = re.compile(r"</?(?:think|answer)>")
_THINK_TAG = re.compile(r"</?think>")
_STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")
_EXPECTED = ["<think>", "</think>", "<answer>", "</answer>"]


@dataclass(frozen=True)
class Parts:
    """What a completion consists of."""

    think: str | None
    """The first closed thinking part."""
    answer: str | None
    """The last complete answer part outside the thinking; None when there is none."""
    ok: bool
    """One thinking part, then one non-empty answer part, and nothing else but white space."""
    reason: str
    """Which sub-check failed; "" when ok."""
    rest: str
    """The text outside closed thinking parts."""


def split(text: str) -> Parts:
    """Read both parts of a completion; leftovers of stop tokens at its end do not count as text."""
    text = _trim(text)
    thoughts = _spans(text, "think")
    rest = _without(text, thoughts)
    answers = _spans(rest, "answer")
    reason = _format_fault(text)
    return Parts(
        think=text[thoughts[0][0] : thoughts[0][1]] if thoughts else None,
        answer=rest[answers[-1][0] : answers[-1][1]] if answers else None,
        ok=not reason,
        reason=reason,
        rest=rest,
    )


def thinking_then_rest(text: str) -> tuple[bool, str]:
    """Check for exactly one thinking part at the start (for tasks whose answer stands in a box): (ok, reason)."""
    text = _trim(text)
    if _first(_THINK_TAG, text, 3) != _EXPECTED[:2]:
        return False, "not exactly one closed thinking part"
    if not text.startswith("<think>"):
        return False, "text before the thinking part"
    return True, ""


def unwrap(text: str) -> str:
    """Give the content of the last answer tags, or the text itself when it has none (for gold answers)."""
    spans = _spans(text, "answer")
    return (text[spans[-1][0] : spans[-1][1]] if spans else text).strip()


def _trim(text: str) -> str:
    text = text.strip()
    while text.endswith(_STOP_TOKENS):
        text = text[: text.rindex("<|")].rstrip()
    return text


def _spans(text: str, name: str) -> list[tuple[int, int]]:
    """Find the innermost closed parts called `name`, as (start, end) of their content."""
    opening, closing = f"<{name}>", f"</{name}>"
    spans, start = [], 0
    while (end := text.find(closing, start)) >= 0:
        opened = text.rfind(opening, start, end)
        if opened >= 0:
            spans.append((opened + len(opening), end))
        start = end + len(closing)
    return spans


def _without(text: str, thoughts: list[tuple[int, int]]) -> str:
    """Cut the thinking parts with their tags out of the text."""
    pieces, start = [], 0
    for begin, end in thoughts:
        pieces.append(text[start : begin - len("<think>")])
        start = end + len("</think>")
    return " ".join([*pieces, text[start:]])


def _first(pattern: re.Pattern, text: str, number: int) -> list[str]:
    """The first `number` matches, at most."""
    return [match.group() for match in itertools.islice(pattern.finditer(text), number)]


def _format_fault(text: str) -> str:
    if _first(_TAG, text, 5) != _EXPECTED:
        return "not exactly one thinking part followed by one answer part"
    if not text.startswith("<think>"):
        return "text before the thinking part"
    if not text.endswith("</answer>"):
        return "text after the answer part"
    between = text[text.index("</think>") + len("</think>") : text.index("<answer>")]
    if between.strip():
        return "text between the parts"
    if not text[text.index("<answer>") + len("<answer>") : -len("</answer>")].strip():
        return "empty answer"
    return ""
