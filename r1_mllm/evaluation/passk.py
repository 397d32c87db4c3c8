# SPDX-License-Identifier: Apache-2.0
"""pass@k: the probability that at least one of k answers to a problem is right, estimated from n >= k answers.

The estimator is the unbiased one of Chen et al. 2021, "Evaluating Large Language Models Trained on Code" (arXiv
2107.03374), section 2.1.  Intervals are percentile bootstrap intervals over problems.  Nothing is clipped, fitted or
extrapolated: a k that is larger than a problem's number of answers is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES_AT_ONCE = 100
"""Bounds the memory of the bootstrap."""


@dataclass(frozen=True)
class Problem:
    """A question with the verdicts on its answers."""

    id: str
    task: str
    form: str
    n: int
    """Answers judged."""
    c: int
    """Right ones among them."""


@dataclass(frozen=True)
class Estimate:
    """pass@k of a group of problems; shares in 0..1."""

    task: str
    form: str
    k: int
    num_problems: int
    n_min: int
    n_max: int
    value: float
    low: float
    high: float
    """Edges of the 95 % interval; both NaN for a single problem, which says nothing of other problems."""


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate 1 - C(n - c, k) / C(n, k) from c right ones of n answers, as a product without factorials.

    With fewer than k wrong answers one of the factors, that of i = k, is zero, and the estimate 1.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {c} right answers among {n}: needs 0 <= c <= n and 1 <= k <= n")
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def bootstrap_mean(values: np.ndarray, num_resamples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean of values [P] over resampled problems; NaN for fewer than two problems."""
    if len(values) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = []
    for at in range(0, num_resamples, RESAMPLES_AT_ONCE):
        drawn = rng.integers(0, len(values), (min(RESAMPLES_AT_ONCE, num_resamples - at), len(values)))
        means.append(values[drawn].mean(axis=1))
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return float(low), float(high)


def table(problems: Sequence[Problem], ks: Sequence[int], num_resamples: int = 2000, seed: int = 0) -> list[Estimate]:
    """pass@k per task and form and, if there are several of these, of all problems together (task and form "all")."""
    check(problems, ks)
    groups: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.task, problem.form), []).append(problem)
    if len(groups) > 1:
        groups["all", "all"] = list(problems)
    return [
        _estimate(task, form, k, members, num_resamples, seed) for (task, form), members in groups.items() for k in ks
    ]


def check(problems: Sequence[Problem], ks: Sequence[int]) -> None:
    """Raise ValueError for what cannot be estimated, naming the k and the problem."""
    if not problems:
        raise ValueError("pass@k needs at least one problem")
    if not ks:
        raise ValueError("--k_values is empty; give at least one k, such as --k_values 1 2 4 8")
    for k in ks:
        if k < 1:
            raise ValueError(f"k={k}: must be at least 1")
        short = [problem for problem in problems if problem.n < k]
        if short:
            more = f" (and {len(short) - 1} more problems)" if len(short) > 1 else ""
            raise ValueError(
                f"k={k} is more than the n={short[0].n} judged answers of problem {short[0].id!r}{more}; sample at "
                f"least {k} answers per problem, or leave k={k} out of --k_values"
            )


def _estimate(task: str, form: str, k: int, members: Sequence[Problem], num_resamples: int, seed: int) -> Estimate:
    values = np.array([pass_at_k(problem.n, problem.c, k) for problem in members])
    sizes = [problem.n for problem in members]
    low, high = bootstrap_mean(values, num_resamples, seed)
    return Estimate(task, form, k, len(members), min(sizes), max(sizes), float(values.mean()), low, high)
