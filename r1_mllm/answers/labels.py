# SPDX-License-Identifier: Apache-2.0
"""Sets of labels ("cat, traffic light"): no order, no multiplicity, labels of several words stay whole."""

from __future__ import annotations

import re
import unicodedata

from .markup import strip_edges, strip_markup

_SEPARATOR = re.compile(r"[,;\n\u3001]|\band\b", re.IGNORECASE)
_MAX_CHARS = 4_000


def parse(text: str) -> frozenset[str] | None:
    """Read a set of labels, case folded; None when there is none."""
    if len(text) > _MAX_CHARS:
        return None
    text = strip_markup(unicodedata.normalize("NFKC", text)).strip("[](){} \n")
    found = (
        re.sub(r"\s+", " ", strip_edges(piece).strip("-*[]")).strip().casefold() for piece in _SEPARATOR.split(text)
    )
    return frozenset(label for label in found if label) or None


def jaccard(a: frozenset | None, b: frozenset | None) -> float:
    """Share of common elements among all elements of both sets; 0 when either is missing."""
    return len(a & b) / len(a | b) if a and b else 0.0
