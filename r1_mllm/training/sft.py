# SPDX-License-Identifier: Apache-2.0
"""Supervised steps on prompts and the answers to learn: the same packs and the same optimizer as GRPO.

A pair is a group of one completion, as `data.pack.supervised_pair` makes it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import paddle

from ..data.pack import pack
from ..distributed import collectives
from ..models import team, threads
from ..models.qwen_vl import QwenVL
from ..records import Group, PackedBatch
from ..runtime import NONFINITE, Stop
from .optimizer import AdamW, learning_rate


def supervised_loss(model: QwenVL, batch: PackedBatch, num_tokens: float) -> paddle.Tensor:
    """Negative log-likelihood of a pack's completion tokens over `num_tokens` (those of the whole step): scalar."""
    logp = model.token_logp(batch)
    weight = paddle.to_tensor(np.where(batch.mask, batch.advantages, 0.0) / num_tokens, dtype=logp.dtype)
    return -paddle.dot(weight, logp)


def supervised_step(
    model: QwenVL, pairs: Sequence[Group], optimizer: AdamW, rate: float, tokens_per_pack: int = 8192
) -> tuple[float, float]:
    """Take one optimizer step on the mean NLL of the pairs' completion tokens, all ranks together.

    Returns:
        The loss before the step, and the gradient's norm before clipping.
    """
    visual_ids = {model.arch.image_token_id, model.arch.video_token_id}
    batches = pack(pairs, tokens_per_pack, visual_ids, at_least=threads.count())
    tokens = collectives.sum_scalars({"tokens": float(sum(batch.mask.sum() for batch in batches))})["tokens"]

    def backward(member: QwenVL, batch: PackedBatch) -> float:
        loss = supervised_loss(member, batch, tokens)
        loss.backward()
        return loss.item()

    total = sum(team.run(model, backward, batches, optimizer.accumulate))
    collectives.sum_gradients(optimizer.leaves.values())
    total = collectives.sum_scalars({"loss": total})["loss"]
    norm = optimizer.grad_norm()
    if not (math.isfinite(total) and math.isfinite(norm)):
        optimizer.clear()
        raise Stop(f"supervised loss {total}, gradient norm {norm}: not finite; lower the learning rate", NONFINITE)
    optimizer.step(rate, norm)
    return total, norm


def supervised_steps(
    model: QwenVL,
    batches: Iterable[Sequence[Group]],
    optimizer: AdamW,
    num_steps: int | None = None,
    seconds: float | None = None,
    tokens_per_pack: int = 8192,
    on_step: Callable[[int, float, float], None] | None = None,
) -> int:
    """Take supervised steps until the batches, the steps or the seconds run out; give how many were taken.

    Args:
        batches: the pairs of one step each.
        num_steps: end after so many; also the length of the learning-rate schedule.
        seconds: end after so much time; without num_steps the schedule follows the share of time that has passed.
        on_step: called with (steps taken, loss, learning rate).
    """
    if num_steps is None and seconds is None:
        raise ValueError("supervised_steps needs num_steps, seconds, or both")
    start = time.perf_counter()
    taken = 0
    for pairs in batches:
        spent = time.perf_counter() - start
        if (num_steps is not None and taken >= num_steps) or (seconds is not None and spent >= seconds):
            break
        length = num_steps or max(taken + 1, math.ceil(taken * seconds / max(spent, 1e-9)))
        rate = learning_rate(taken, length, optimizer.config)
        loss, _ = supervised_step(model, pairs, optimizer, rate, tokens_per_pack)
        taken += 1
        if on_step is not None:
            on_step(taken, loss, rate)
    return taken
