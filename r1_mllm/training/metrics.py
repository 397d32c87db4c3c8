# SPDX-License-Identifier: Apache-2.0
"""Numbers of a step under the names TRL's users look for, over all ranks.

Shape letters: N groups, G completions of a group, R completions of a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..config import ObjectiveConfig
from ..objectives import advantages, policy
from ..records import Group

LATEST = (
    *("memory/peak_gb", "learning_rate", "epoch", "num_tokens", "num_generated_tokens", "skipped_steps"),
    *("loss_scale", "dropped_rows"),
)
"""Metrics of which the last value counts when several steps are logged together; the others are averaged."""


VERIFIER_FAILURES = ("timeout", "crash")
"""Rules of grades that math-verify's worker could not decide."""


def describe(groups: Sequence[Group]) -> dict[str, np.ndarray]:
    """Collect what one rank's rollout is worth: name -> [N, G] array (parts/NAME per reward)."""
    if not groups:
        return {}
    columns = {
        "rewards": np.stack([group.rewards for group in groups]),
        "lengths": np.array([[len(completion.ids) for completion in group.completions] for group in groups]),
        "finished": np.array([[completion.finished for completion in group.completions] for group in groups]),
        "empty": np.array([[not completion.text.strip() for completion in group.completions] for group in groups]),
        "prompt_lengths": np.array([[len(group.prompt.ids)] for group in groups]),
    }
    columns["not_scored"] = np.isnan(columns["rewards"])
    if all(len(group.grades) for group in groups):
        columns["correct"] = np.array([[grade.correct for grade in group.grades] for group in groups])
        rules = np.array([[grade.decided_by for grade in group.grades] for group in groups])
        columns["verifier_failed"] = np.isin(rules, VERIFIER_FAILURES)
    for name in groups[0].parts:
        columns[f"parts/{name}"] = np.stack([group.parts[name] for group in groups])
    for name in sorted({name for group in groups for name in group.details}):
        absent = np.full(len(groups[0].completions), np.nan)
        columns[f"parts/{name}"] = np.stack([group.details.get(name, absent) for group in groups])
    return columns


def join(ranks: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Put the ranks' arrays behind each other; only what all have that have any (a rank's rows may all be dropped)."""
    ranks = [rank for rank in ranks if rank]
    names = [name for name in ranks[0] if all(name in rank for rank in ranks)]
    return {name: np.concatenate([rank[name] for rank in ranks]) for name in names}


def of_rollout(columns: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Metrics of the sampled completions and what they earned."""
    rewards, lengths, finished = columns["rewards"], columns["lengths"], columns["finished"]
    metrics = {
        "reward": _mean(rewards),
        "reward_std": _std(rewards),
        "frac_reward_zero_std": float(np.mean(advantages.all_equal(rewards))),
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": float(lengths.min()),
        "completions/max_length": float(lengths.max()),
        "completions/clipped_ratio": float(1.0 - finished.mean()),
        "completions/empty_ratio": float(columns["empty"].mean()),
        "completions/not_scored": float(columns["not_scored"].sum()),
        "completion_length": float(lengths.mean()),
        "prompt_length": float(columns["prompt_lengths"].mean()),
    }
    ended = lengths[finished]
    for name, value in (("mean", np.mean), ("min", np.min), ("max", np.max)):
        metrics[f"completions/{name}_terminated_length"] = float(value(ended)) if len(ended) else 0.0
    if "correct" in columns:
        metrics["accuracy"] = float(columns["correct"].mean())
        metrics["completions/verifier_failed"] = float(columns["verifier_failed"].sum())
    for name, values in columns.items():
        if name.startswith("parts/"):
            reward = name.removeprefix("parts/")
            metrics[f"rewards/{reward}/mean"] = metrics[f"rewards/{reward}"] = _mean(values)
            metrics[f"rewards/{reward}/std"] = _std(values)
    return metrics


def of_update(rows: Mapping[str, np.ndarray], config: ObjectiveConfig) -> dict[str, float]:
    """Metrics of the policy update from `policy.statistics` of all packs and ranks, older names included."""
    metrics = policy.summary(dict(rows), config)
    if "clip_ratio/region_mean" in metrics:
        metrics["clip_ratio"] = metrics["clip_ratio/region_mean"]
    return metrics


def average(window: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Join the metrics of several steps into one line."""
    names = dict.fromkeys(name for step in window for name in step)
    joined = {}
    for name in names:
        values = [step[name] for step in window if name in step]
        joined[name] = values[-1] if name in LATEST else float(np.mean(values))
    return joined


def _mean(values: np.ndarray) -> float:
    """Mean of the scored values; NaN (left out of plots) when nothing was scored."""
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


def _std(values: np.ndarray) -> float:
    """Sample deviation of the scored values; 0 for fewer than two."""
    scored = values[~np.isnan(values)]
    return float(scored.std(ddof=1)) if len(scored) > 1 else 0.0
