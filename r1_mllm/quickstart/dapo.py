# SPDX-License-Identifier: Apache-2.0
"""DAPO in miniature: what configs/dapo_math_7b.yaml sets for eight GPUs, on the quickstart's scale."""

from __future__ import annotations

import dataclasses

from ..config import GrpoConfig

OVERLONG_SHARE = 0.3
"""Of the completion's length: the buffer over which overlong answers are charged."""


def dapo(config: GrpoConfig) -> GrpoConfig:
    """Take clip-higher, token-level loss, dynamic sampling, overlong shaping, dual clip, mini-batches; no KL term."""
    length = config.rollout.max_completion_length
    return dataclasses.replace(
        config,
        rollout=dataclasses.replace(config.rollout, dynamic_sampling=True, filter_metric="accuracy"),
        objective=dataclasses.replace(
            config.objective, loss_type="dapo", epsilon=0.2, epsilon_high=0.28, dual_clip=10.0, beta=0.0
        ),
        reward=dataclasses.replace(
            config.reward,
            reward_funcs=("math_verify_for_dapo", "overlong"),
            overlong_buffer=max(1, int(OVERLONG_SHARE * length)),
        ),
        training=dataclasses.replace(
            config.training, mini_batch_size=max(1, config.training.per_device_train_batch_size // 2)
        ),
    )
