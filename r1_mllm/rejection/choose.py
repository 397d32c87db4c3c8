# SPDX-License-Identifier: Apache-2.0
"""Which sampled answers are kept: good enough, not said twice, and no domain by far the largest."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Candidate:
    """An answer that may be kept."""

    question: str
    """What the question and its pictures are, so that equal ones are recognised."""
    domain: str
    text: str
    score: float | None
    """0..100; None: nobody could judge it."""
    num_tokens: int
    place: tuple[int, int]
    """Number of the question, number of its sample."""
    about: Mapping[str, Any] = field(default_factory=dict)


def above(candidates: Sequence[Candidate], threshold: float) -> list[Candidate]:
    """Those that score more than the threshold."""
    return [one for one in candidates if one.score is not None and one.score > threshold]


def distinct(candidates: Sequence[Candidate], max_per_prompt: int) -> list[Candidate]:
    """The best different answers to each question, in their order.

    Better is the higher score, then the shorter answer, then the earlier sample; answers that differ in white space
    only are the same.

    Args:
        max_per_prompt: most answers to a question; 0: all.
    """
    best = sorted(candidates, key=lambda one: (-(one.score or 0.0), one.num_tokens, one.place))
    said: set[tuple[str, str]] = set()
    counts: Counter[str] = Counter()
    kept = []
    for one in best:
        words = (one.question, " ".join(one.text.split()))
        if words in said or (max_per_prompt and counts[one.question] >= max_per_prompt):
            continue
        said.add(words)
        counts[one.question] += 1
        kept.append(one)
    return sorted(kept, key=lambda one: one.place)


def balanced(
    candidates: Sequence[Candidate], quotas: Mapping[str, int], max_ratio: float, seed: int
) -> tuple[list[Candidate], list[str]]:
    """Draw from domains that have too many, and say what could not be had.

    Args:
        quotas: domain -> how many answers it may have.
        max_ratio: most answers of a domain without a quota, as a multiple of the smallest such domain's; 0: all.

    Returns:
        The kept ones in their order, and one warning per quota that could not be filled.
    """
    counts = Counter(one.domain for one in candidates)
    unknown = sorted(set(quotas) - set(counts))
    if unknown:
        known = ", ".join(f"{name} ({num})" for name, num in counts.most_common()) or "none"
        raise ValueError(f"--domain_quota {unknown[0]}: no answer of this domain was kept; there are: {known}")
    free = [num for name, num in counts.items() if name not in quotas]
    limit = math.ceil(max_ratio * min(free)) if free and max_ratio else max(free, default=0)
    warnings = [
        f"domain {name}: {counts[name]} answers for a quota of {num}"
        for name, num in quotas.items()
        if counts[name] < num
    ]
    kept: list[Candidate] = []
    for name in counts:
        members = [one for one in candidates if one.domain == name]
        wanted = min(quotas.get(name, limit), len(members))
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        kept += [members[i] for i in rng.permutation(len(members))[:wanted]]
    return sorted(kept, key=lambda one: one.place), warnings


def read_quotas(words: Sequence[str]) -> dict[str, int]:
    """Read NAME=COUNT words."""
    quotas = {}
    for word in words:
        name, _, num = word.rpartition("=")
        if not name or not num.isdecimal():
            raise ValueError(f"--domain_quota {word!r}: expected NAME=COUNT, such as math=700")
        quotas[name] = int(num)
    return quotas
