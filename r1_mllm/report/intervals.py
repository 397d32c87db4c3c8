# SPDX-License-Identifier: Apache-2.0
"""95 % intervals of shares and of paired differences, in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z_95 = 1.959963984540054


def wilson(k: int, n: int) -> tuple[float, float]:
    """Give the Wilson score interval of the share k / n, as shares in 0..1; (0, 1) when n is 0."""
    if not 0 <= k <= n:
        raise ValueError(f"{k} successes of {n}: the count must lie between 0 and the total")
    if n == 0:
        return 0.0, 1.0
    return _wilson_of_share(k / n, n)


def _wilson_of_share(share: float, n: float) -> tuple[float, float]:
    z2 = Z_95 * Z_95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if share == 0 else max(0.0, centre - half)
    return low, 1.0 if share == 1 else min(1.0, centre + half)


def paired_difference(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """Give (mean, low, high) of after - before over the same questions: normal interval, standard error of the pairs.

    Outcomes are booleans or scores; values are shares, not percent.  One pair alone gives an infinite interval.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"{len(before)} outcomes before and {len(after)} after: pairs are needed, at least one")
    changes = [float(b) - float(a) for a, b in zip(before, after, strict=True)]
    n = len(changes)
    mean = math.fsum(changes) / n
    if n == 1:
        return mean, -math.inf, math.inf
    variance = math.fsum((change - mean) ** 2 for change in changes) / (n - 1)
    half = Z_95 * math.sqrt(variance / n)
    return mean, mean - half, mean + half


def wilson_of_means(shares: Sequence[float]) -> tuple[float, float]:
    """Give a 95 % interval of the mean of per-problem shares (several answers each), as shares in 0..1.

    Answers to one problem resemble each other, so problems are what is counted: Wilson's interval for the number of
    independent answers that would have the observed variance between problems (Korn and Graubard 1998); at least one
    per problem.  With one answer per problem it is `wilson` up to (n - 1) / n.
    """
    n = len(shares)
    if not n:
        return 0.0, 1.0
    mean = math.fsum(shares) / n
    spread = math.fsum((share - mean) ** 2 for share in shares)
    effective = n * (n - 1) * mean * (1 - mean) / spread if spread > 0 else float(n)
    return _wilson_of_share(min(max(mean, 0.0), 1.0), effective)
