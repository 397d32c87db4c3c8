# SPDX-License-Identifier: Apache-2.0
"""Policy losses on packed tokens.

Shape letters: T packed tokens, R completions ("rows") of a pack.  A loss is a sum over tokens of `weight * value`; the
weights come from counts of the whole optimizer step over all ranks, so how tokens are split into packs changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle

from ..config import ObjectiveConfig
from ..records import PackedBatch
from .kl import LOG_RATIO_LIMIT, kl

TOKEN_MEAN = ("bnpo", "dapo", "cispo")
"""Losses divided by the number of tokens; grpo averages each row first, dr_grpo divides by the possible length."""


@dataclass(frozen=True)
class Counts:
    """What the sum over tokens is divided by: numbers of the whole step, all micro-batches and ranks."""

    num_tokens: float
    """Unmasked completion tokens.  bnpo averages micro-batches: those of this micro-batch times their number."""
    num_rows: float
    """Completions, fully masked ones included."""
    max_completion_length: int
    """Tokens; dr_grpo only."""


def row_lengths(batch: PackedBatch) -> np.ndarray:
    """Count each completion's unmasked tokens: [R] int64."""
    return np.bincount(batch.row[batch.mask], minlength=batch.num_rows)


def token_weights(batch: PackedBatch, loss_type: str, counts: Counts) -> np.ndarray:
    """Say what each token's value is multiplied by in the sum: [T] float64, 0 where masked."""
    if loss_type in TOKEN_MEAN:
        return batch.mask / max(counts.num_tokens, 1.0)
    if loss_type == "dr_grpo":
        return batch.mask / (counts.num_rows * counts.max_completion_length)
    per_row = 1.0 / (np.maximum(row_lengths(batch), 1) * counts.num_rows)
    return np.where(batch.mask, per_row[batch.row], 0.0)


def _row_means(values: paddle.Tensor, batch: PackedBatch) -> paddle.Tensor:
    """Replace each row's values by their mean over its unmasked tokens: [T] -> [T], differentiable; 0 for prompts."""
    rows = np.arange(batch.num_rows)[:, None]
    member = (batch.row[None, :] == rows) & batch.mask[None, :]  # [R, T]
    average = member / np.maximum(member.sum(axis=1, keepdims=True), 1)
    means = paddle.matmul(paddle.to_tensor(average, dtype=values.dtype), values)  # [R]
    return paddle.matmul(paddle.to_tensor(member.T, dtype=values.dtype), means)


def _log_ratio(logp: paddle.Tensor, batch: PackedBatch, mask: paddle.Tensor, level: str) -> paddle.Tensor:
    """Log of policy over sampler: [T], 0 where masked, one value per row at level "sequence"."""
    old = paddle.to_tensor(batch.sampler_logp, dtype=logp.dtype)
    log_ratio = paddle.where(mask, logp - old, paddle.zeros_like(logp))  # before exp: exp(900) * 0 is NaN
    if level == "sequence":
        log_ratio = _row_means(log_ratio, batch)
    return paddle.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def _clipped(log_ratio: paddle.Tensor, advantages: paddle.Tensor, config: ObjectiveConfig) -> paddle.Tensor:
    """Pessimistic minimum of the plain and the clipped objective, negated: [T] -> [T]."""
    low, high = clip_bounds(config)
    ratio = paddle.exp(log_ratio)
    clipped = paddle.clip(ratio, 1.0 - low, 1.0 + high)
    if config.delta is not None:
        ratio = paddle.clip(ratio, max=config.delta)
    objective = paddle.minimum(ratio * advantages, clipped * advantages)
    if config.dual_clip is not None:  # Ye et al. 2020, arXiv:1912.09729
        floor = paddle.maximum(objective, config.dual_clip * advantages)
        objective = paddle.where(advantages < 0, floor, objective)
    return -objective


def _cispo(logp: paddle.Tensor, log_ratio: paddle.Tensor, advantages: paddle.Tensor, cap: float) -> paddle.Tensor:
    """Policy gradient with the capped ratio as a constant weight: [T] -> [T]."""
    weight = paddle.clip(paddle.exp(log_ratio.detach()), max=cap)
    return -weight * advantages * logp


def clip_bounds(config: ObjectiveConfig) -> tuple[float, float]:
    """Give (epsilon below, epsilon above); cispo uses the second as the cap of the ratio itself."""
    return config.epsilon, config.epsilon if config.epsilon_high is None else config.epsilon_high


def loss(logp: paddle.Tensor, batch: PackedBatch, config: ObjectiveConfig, counts: Counts) -> paddle.Tensor:
    """Loss of one pack; the packs' losses (and their gradients) add up to the step's.

    Args:
        logp: [T] nats of the policy at the sampler's temperature; only values where `batch.mask` count.
        batch: with `ref_logp` when config.beta is not 0.

    Returns:
        Scalar, dtype of `logp`.
    """
    mask = paddle.to_tensor(batch.mask)
    logp = paddle.where(mask, logp, paddle.zeros_like(logp))
    advantages = paddle.to_tensor(batch.advantages, dtype=logp.dtype)
    log_ratio = _log_ratio(logp, batch, mask, config.importance_sampling_level)
    if config.loss_type == "cispo":
        value = _cispo(logp, log_ratio, advantages, clip_bounds(config)[1])
    else:
        value = _clipped(log_ratio, advantages, config)
    if config.beta:
        ref_logp = paddle.to_tensor(batch.ref_logp, dtype=logp.dtype)
        value = value + config.beta * kl(logp, ref_logp, mask, config.kl_estimator)
    weight = paddle.to_tensor(token_weights(batch, config.loss_type, counts), dtype=logp.dtype)
    return paddle.dot(weight, value)


def statistics(logp: np.ndarray, batch: PackedBatch, config: ObjectiveConfig) -> dict[str, np.ndarray]:
    """What the logs say about one pack, per row so that packs and ranks can be joined: name -> [R] float64.

    Args:
        logp: [T] nats of the policy.

    Returns:
        Sums over each row's tokens: `tokens`, `nll`, `clip_low`, `clip_high`, `cispo_clip`, `log_ratio_clamped`;
        `clip_dual` with dual_clip, `kl` with a reference.
    """
    low, high = clip_bounds(config)
    mask, row = batch.mask, batch.row[batch.mask]

    def per_row(values: np.ndarray) -> np.ndarray:
        return np.bincount(row, weights=values, minlength=batch.num_rows)

    logp = np.asarray(logp, np.float64)[mask]
    advantage = batch.advantages[mask]
    log_ratio = logp - batch.sampler_logp[mask]
    sums = {"tokens": per_row(np.ones_like(logp)), "nll": per_row(-logp)}
    if config.importance_sampling_level == "sequence":
        log_ratio = (per_row(log_ratio) / np.maximum(sums["tokens"], 1))[row]
    ratio = np.exp(np.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    if config.delta is not None:
        ratio = np.minimum(ratio, config.delta)
    sums["clip_low"] = per_row((ratio < 1 - low) & (advantage < 0))
    sums["clip_high"] = per_row((ratio > 1 + high) & (advantage > 0))
    if config.dual_clip is not None:
        sums["clip_dual"] = per_row((ratio > config.dual_clip) & (advantage < 0))
    sums["cispo_clip"] = per_row((ratio > high) & (advantage > 0))
    sums["log_ratio_clamped"] = per_row(abs(log_ratio) > LOG_RATIO_LIMIT)
    if batch.ref_logp is not None:
        gap = np.clip(batch.ref_logp[mask] - logp, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        value = {"k1": -gap, "k2": 0.5 * gap**2, "k3": np.exp(gap) - gap - 1.0}[config.kl_estimator]
        sums["kl"] = per_row(value)
    return sums


def summary(rows: dict[str, np.ndarray], config: ObjectiveConfig) -> dict[str, float]:
    """Turn the row sums of a step into metrics under TRL's names.

    Args:
        rows: as `statistics` gives, rows of all packs and ranks behind each other.
    """
    tokens = rows["tokens"]
    total = max(tokens.sum(), 1.0)
    metrics = {"entropy": rows["nll"].sum() / total, "log_ratio_clamped": rows["log_ratio_clamped"].sum() / total}
    if "kl" in rows:
        metrics["kl"] = rows["kl"].sum() / total
    if "clip_dual" in rows:
        metrics["clip_ratio/dual_mean"] = rows["clip_dual"].sum() / total
    if config.loss_type == "cispo":
        return metrics | {"cispo_clip_ratio": rows["cispo_clip"].sum() / total}
    if config.importance_sampling_level == "sequence":  # one ratio per row: count rows, not tokens
        share = {key: rows[key] / np.maximum(tokens, 1) for key in ("clip_low", "clip_high")}
        low, high = share["clip_low"].mean(), share["clip_high"].mean()
    else:
        share = {key: rows[key][tokens > 0] / tokens[tokens > 0] for key in ("clip_low", "clip_high")}
        low, high = rows["clip_low"].sum() / total, rows["clip_high"].sum() / total
    metrics["clip_ratio/low_mean"], metrics["clip_ratio/high_mean"] = low, high
    metrics["clip_ratio/region_mean"] = low + high
    metrics["clip_ratio/low_min"] = share["clip_low"].min(initial=1.0) if len(tokens) else 0.0
    metrics["clip_ratio/high_max"] = share["clip_high"].max(initial=0.0)
    return {name: float(value) for name, value in metrics.items()}
