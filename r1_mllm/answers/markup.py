# SPDX-License-Identifier: Apache-2.0
"""What writers put around an answer: markdown, dollar signs, \\boxed{}, \\text{}, punctuation at its end."""

from __future__ import annotations

import re

_NOISE = re.compile(r"\*\*|__(?=\S)|`{1,3}(?:[a-z]{1,8}\n)?|\\?\$|\\[()\[\]](?!\w)|\\displaystyle\b|\\left\b|\\right\b")
_TEXT = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mathit|mbox|operatorname|bf|rm)\s?\{([^{}]{0,80})\}")
_SPACE = re.compile(r"\\[,;:! ]|\\quad\b|\\qquad\b|~|\u00a0|\u3000")
_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,4}\{")
_BRACE = re.compile(rf"{_BOX.pattern}|\\[{{}}\\]|[{{}}]")
_EDGES = " \t\r\n.,;:\"'\u201c\u201d\u2018\u2019\u3002\uff0c\uff1b"


def boxed(text: str) -> list[str]:
    """Find the contents of every complete \\boxed{...} (or \\fbox{...}), outermost ones, in order; one pass."""
    opened: list[int | None] = []  # where the content of a box begins; None for other braces
    spans: list[tuple[int, int]] = []
    if not _BOX.search(text):
        return []
    for match in _BRACE.finditer(text, 0, text.rfind("}") + 1):  # nothing after the last one is complete
        token = match.group()
        if token == "}" and opened:
            start = opened.pop()
            if start is not None:
                while spans and spans[-1][0] > start:
                    spans.pop()
                spans.append((start, match.start()))
        elif token[-1] == "{" and token != "\\{":
            opened.append(match.end() if len(token) > 1 else None)
    return [text[start:end] for start, end in spans]


def strip_markup(text: str) -> str:
    """Remove what surrounds an answer; a box is replaced by its content."""
    for content in set(boxed(text)):
        for macro in ("\\boxed", "\\fbox"):
            text = text.replace(f"{macro}{{{content}}}", f" {content} ").replace(
                f"{macro} {{{content}}}", f" {content} "
            )
    text = _TEXT.sub(r" \1 ", _TEXT.sub(r" \1 ", text))
    text = _SPACE.sub(" ", _NOISE.sub("", text.replace("{,}", ",").replace("\\!", "")))
    return strip_edges(text)


def strip_edges(text: str) -> str:
    """Remove white space, quotes and end punctuation at both ends (a decimal point before a digit stays)."""
    stripped = text.strip(_EDGES)
    start = text.find(stripped)
    keeps_point = stripped[:1].isdigit() and start > 0 and text[start - 1] == "."
    return "." + stripped if keeps_point else stripped
