# SPDX-License-Identifier: Apache-2.0
"""Estimators of the divergence from the reference model, token by token, from samples of the policy.

Shape letter: T packed tokens.
"""

from __future__ import annotations

import paddle

LOG_RATIO_LIMIT = 20.0
"""Log ratios are clamped to +-this (nats): exp overflows float32 at 88, and one token would outweigh a batch."""


def k1(log_ratio: paddle.Tensor) -> paddle.Tensor:
    """Unbiased, can be negative: [T] log(reference / policy) -> [T]."""
    return -log_ratio


def k2(log_ratio: paddle.Tensor) -> paddle.Tensor:
    """Half the squared log ratio: biased, low variance: [T] -> [T]."""
    return 0.5 * log_ratio * log_ratio


def k3(log_ratio: paddle.Tensor) -> paddle.Tensor:
    """Unbiased and never negative: [T] -> [T]."""
    return paddle.exp(log_ratio) - log_ratio - 1.0


ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}


def kl(logp: paddle.Tensor, ref_logp: paddle.Tensor, mask: paddle.Tensor, estimator: str = "k3") -> paddle.Tensor:
    """Estimate the divergence per token; 0 where masked.

    Args:
        logp, ref_logp: [T] nats of policy and reference.  mask: [T] bool.

    Returns:
        [T], dtype of `logp`; gradient flows through `logp`.
    """
    log_ratio = paddle.where(mask, ref_logp - logp, paddle.zeros_like(logp))
    return ESTIMATORS[estimator](paddle.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
