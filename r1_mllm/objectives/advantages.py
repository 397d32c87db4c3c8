# SPDX-License-Identifier: Apache-2.0
"""How much better each completion is than its siblings.

Shape letters: N groups, G completions of a group, K reward functions.  All float64; NaN means "this reward does not
apply here": it is left out of means and deviations, and a completion without any reward gets advantage 0.
"""

from __future__ import annotations

import numpy as np

from ..config import ObjectiveConfig

EPSILON = 1e-4
"""Added to a standard deviation before dividing by it."""

SAME = 1e-6
"""Rewards whose spread is below this share of their size count as equal."""


def all_equal(rewards: np.ndarray) -> np.ndarray:
    """Say which groups hold one value only or fewer than two scored completions: [..., G] -> [...] bool."""
    scored = ~np.isnan(rewards)
    high = np.where(scored, rewards, -np.inf).max(axis=-1)
    low = np.where(scored, rewards, np.inf).min(axis=-1)
    size = np.maximum(1.0, np.maximum(abs(high), abs(low)))
    with np.errstate(invalid="ignore"):
        return (scored.sum(axis=-1) < 2) | (high - low <= SAME * size)


def _deviation(values: np.ndarray, axis: int | None) -> np.ndarray:
    """Sample standard deviation (n - 1) over the scored values, axes kept; 0 for fewer than two."""
    scored = ~np.isnan(values)
    count = scored.sum(axis=axis, keepdims=True)
    mean = np.nansum(values, axis=axis, keepdims=True) / np.maximum(count, 1)
    squares = np.where(scored, (values - mean) ** 2, 0.0).sum(axis=axis, keepdims=True)
    return np.sqrt(squares / np.maximum(count - 1, 1))


def _centred(rewards: np.ndarray, leave_one_out: bool) -> np.ndarray:
    """Subtract the group's mean (or that of the other completions): [N, G] -> [N, G]; equal groups are exactly 0."""
    scored = ~np.isnan(rewards)
    count = scored.sum(axis=-1, keepdims=True)
    centred = rewards - np.nansum(rewards, axis=-1, keepdims=True) / np.maximum(count, 1)
    if leave_one_out:
        centred = centred * count / np.maximum(count - 1, 1)
    # The float mean of equal numbers need not equal them, and dividing by a tiny deviation makes a gradient of that.
    return np.where(all_equal(rewards)[:, None], 0.0, centred)


def group_relative(
    rewards: np.ndarray, scale: str = "group", estimator: str = "group", population: np.ndarray | None = None
) -> np.ndarray:
    """Compare each reward with its group.

    Args:
        rewards: [N, G] float64, G >= 2.
        scale: what the difference is divided by: the deviation of the "group", of the whole "batch", or "none".
        estimator: "group" subtracts the group's mean, "leave_one_out" the mean of the other completions.
        population: [M] rewards of the whole step (all ranks) for scale "batch"; None: `rewards` itself.

    Returns:
        [N, G] float64; exactly 0 where a group's rewards are equal, or fewer than two of them apply.
    """
    _check_groups(rewards)
    advantages = _centred(rewards, estimator == "leave_one_out")
    if scale == "group":
        advantages = advantages / (_deviation(rewards, -1) + EPSILON)
    elif scale == "batch":
        whole = rewards if population is None else population
        advantages = advantages / (_deviation(whole.reshape(-1), None) + EPSILON)
    return np.where(np.isnan(rewards), 0.0, advantages)


def normalize_then_sum(
    parts: np.ndarray, weights: np.ndarray, scale: str = "group", estimator: str = "group"
) -> np.ndarray:
    """Bring every reward function to its group's scale before adding them up: parts [N, G, K], weights [K] -> [N, G].

    NaN where no reward applies.  The sum still has to be standardised over the whole step: `standardize`.
    """
    _check_groups(parts[..., 0])
    each = [group_relative(parts[..., k], scale, estimator) * weights[k] for k in range(len(weights))]
    return np.where(np.isnan(parts).all(axis=-1), np.nan, np.sum(each, axis=0))


def standardize(summed: np.ndarray, population: np.ndarray | None = None) -> np.ndarray:
    """Divide by the deviation over the batch (`population` [M]: that of all ranks): [N, G] -> [N, G].

    The mean is 0 by construction, group by group, so it is not subtracted and equal groups stay exactly 0.
    """
    whole = summed if population is None else population
    return np.nan_to_num(summed / (_deviation(whole.reshape(-1), None) + EPSILON), nan=0.0)


def compute(
    rewards: np.ndarray, parts: np.ndarray, weights: np.ndarray, config: ObjectiveConfig, gather=lambda array: array
) -> np.ndarray:
    """Advantages as the settings ask.

    Args:
        rewards: [N, G] weighted sums.  parts: [N, G, K] unweighted.  weights: [K].
        gather: collects a [M] array from all ranks; needed where the whole batch sets the scale.

    Returns:
        [N, G] float64.
    """
    scale, estimator = config.scale_rewards, config.advantage_estimator
    if config.multi_objective_aggregation == "normalize_then_sum":
        summed = normalize_then_sum(parts, weights, scale, estimator)
        return standardize(summed, gather(summed.reshape(-1)))
    population = gather(rewards.reshape(-1)) if scale == "batch" else None
    return group_relative(rewards, scale, estimator, population)


def _check_groups(rewards: np.ndarray) -> None:
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(
            f"num_generations is {rewards.shape[-1]}: GRPO compares the completions of a prompt with each other and "
            "needs at least 2"
        )
