# SPDX-License-Identifier: Apache-2.0
"""The parts of a GRPO step between scored groups and changed weights.

Shape letters: N groups, G completions of a group, K rewards, T packed tokens.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import paddle

from ..config import GrpoConfig
from ..data.pack import pack
from ..distributed import collectives
from ..distributed.heartbeat import alive, beat
from ..models import lora, reading, team, threads
from ..models.qwen_vl import QwenVL
from ..models.reading import ReadPrompt
from ..objectives import advantages, policy
from ..records import Group, PackedBatch
from .optimizer import AdamW
from .scaling import LossScale

Item = TypeVar("Item")
Extra = TypeVar("Extra")

Packs = list[tuple[PackedBatch, policy.Counts]]


def phase_seed(seed: int, step: int, phase: str, rank: int) -> int:
    """Derive the seed of one phase of one step: nothing but the step decides what is drawn, so a step can be redone."""
    digest = hashlib.sha256(f"{seed}/{step}/{phase}/{rank}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def assign_advantages(groups: Sequence[Group], weights: np.ndarray, config: GrpoConfig) -> None:
    """Fill in every group's advantages ([G]) from its rewards and their weights [K]."""
    num_generations, num_rewards = config.rollout.num_generations, len(weights)
    rewards, parts = np.zeros((len(groups), num_generations)), np.zeros((len(groups), num_generations, num_rewards))
    for i, group in enumerate(groups):
        rewards[i], parts[i] = group.rewards, np.stack(list(group.parts.values()), axis=-1)
    values = advantages.compute(rewards, parts, weights, config.objective, gather=_gather)
    for group, value in zip(groups, values, strict=True):
        group.advantages = value


def _gather(array: np.ndarray) -> np.ndarray:
    return np.concatenate(collectives.gather_objects(array))


def pack_groups(groups: Sequence[Group], visual_ids: Collection[int], config: GrpoConfig) -> Packs:
    """Lay a step's groups into packs, each with the counts its loss is divided by.

    bnpo averages micro-batches, so its packs do not cross them; the other losses pack the whole step together.
    """
    objective, training = config.objective, config.training
    size = training.per_device_train_batch_size if objective.loss_type == "bnpo" else max(1, len(groups))
    micro_batches = [groups[start : start + size] for start in range(0, len(groups), size)]
    truncated = objective.mask_truncated_completions
    at_least = threads.count()
    packed = [pack(micro, training.tokens_per_pack, visual_ids, truncated, at_least) for micro in micro_batches]
    local = {
        "tokens": sum(int(batch.mask.sum()) for batches in packed for batch in batches),
        "rows": sum(len(group.completions) for group in groups),
        "micro": len(micro_batches),
    }
    total = collectives.sum_scalars(local)
    length = config.rollout.max_completion_length
    result: Packs = []
    for batches in packed:
        tokens = total["tokens"]
        if objective.loss_type == "bnpo":
            tokens = sum(int(batch.mask.sum()) for batch in batches) * total["micro"]
        counts = policy.Counts(tokens, total["rows"], length)
        result.extend((batch, counts) for batch in batches)
    return result


@paddle.no_grad()
def add_reference(packs: Packs, reference: QwenVL | None, temperature: float) -> None:
    """Fill in the reference model's log-probabilities; without a reference model (beta 0) do nothing."""
    if reference is None:
        return
    batches = [batch for batch, _ in packs]

    def logp_of(batch: PackedBatch) -> np.ndarray:
        alive()
        return reference.token_logp(batch, temperature).numpy()

    logps = threads.run(logp_of, batches)
    for batch, logp in zip(batches, logps, strict=True):
        batch.ref_logp = logp


@dataclass
class Update:
    """What one pass over a step's packs gave, before the weights change."""

    loss: float
    """Over all ranks."""
    grad_norm: float
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    """`policy.statistics` of this rank's packs."""

    @property
    def finite(self) -> bool:
        """Whether both numbers are finite; the same on every rank."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def accumulate_gradients(model: QwenVL, packs: Packs, optimizer: AdamW, scale: LossScale, config: GrpoConfig) -> Update:
    """Run forward and backward over the packs and sum gradients over packs and ranks; weights stay as they are."""

    def go_back(results: list[tuple[np.ndarray, list[ReadPrompt]]]) -> None:
        used = [
            pair
            for (_, prompts), (batch, _) in zip(results, packs, strict=True)
            for pair in zip(batch.readings, prompts, strict=True)
        ]
        reading.go_back(model, used, optimizer.accumulate)

    update, results = sum_passes(
        model,
        lambda member, item: backward(member, *item, scale.value, config),
        packs,
        optimizer,
        config.training.seed,
        scale.value,
        go_back,
    )
    statistics = [
        policy.statistics(logp, batch, config.objective) for (logp, _), (batch, _) in zip(results, packs, strict=True)
    ]
    update.rows = {name: np.concatenate([rows[name] for rows in statistics]) for name in (statistics or [{}])[0]}
    return update


def sum_passes(
    model: QwenVL,
    backward: Callable[[QwenVL, Item], tuple[float, Extra]],
    items: Sequence[Item],
    optimizer: AdamW,
    seed: int,
    scale: float = 1.0,
    afterwards: Callable[[list[Extra]], None] = lambda extras: None,
) -> tuple[Update, list[Extra]]:
    """Run backward passes over a step's items and sum their gradients over items and ranks.

    Args:
        backward: leaves the gradients of an item, times `scale`, on the model; gives its loss and anything else.
        seed: of the run; adapters' dropout follows from it, the optimizer's step and the item's number.
        afterwards: called with the others of what `backward` gave, before ranks are summed; may add gradients.
    """

    def dropping(member: QwenVL, numbered: tuple[int, Item]) -> tuple[float, Extra]:
        beat("update")
        number, item = numbered
        with lora.dropping(member, phase_seed(seed, optimizer.num_steps, "dropout", number)):
            return backward(member, item)

    optimizer.begin()
    results = team.run(model, dropping, list(enumerate(items)), optimizer.accumulate)
    afterwards([extra for _, extra in results])
    optimizer.reduce_gradients()
    loss = collectives.sum_scalars({"loss": sum(value for value, _ in results)})["loss"]
    return Update(loss, optimizer.grad_norm() / scale), [extra for _, extra in results]


def backward(
    model: QwenVL, batch: PackedBatch, counts: policy.Counts, scale: float, config: GrpoConfig
) -> tuple[float, tuple[np.ndarray, list[ReadPrompt]]]:
    """Leave one pack's gradients, times `scale`, on the model and on leaves that stand for prompts read before.

    Returns:
        its loss; the policy's logp [T] and those leaves, one for each of the pack's readings.
    """
    prompts = [kept.prompt.leaves() for kept in batch.readings]
    logp = model.token_logp(batch, config.rollout.temperature, prompts)
    loss = policy.loss(logp, batch, config.objective, counts)
    back_propagate(loss, scale)
    return loss.item(), (logp.detach().numpy(), prompts)


def back_propagate(loss: paddle.Tensor, scale: float = 1.0) -> None:
    """Leave the gradients of a loss, times `scale`; one that nothing trainable led to has none."""
    if not loss.stop_gradient:
        (loss if scale == 1.0 else loss * scale).backward()


def offenders(
    model: QwenVL, groups: Sequence[Group], packs: Packs, visual_ids: Collection[int], config: GrpoConfig
) -> list[Group]:
    """Find the groups that give a non-finite loss or gradient on their own; the model's gradients are dropped."""
    found = []
    if not packs:
        return found
    counts = packs[0][1]
    for group in groups:
        pieces = pack([group], config.training.tokens_per_pack, visual_ids)
        for batch in pieces:
            if config.objective.beta:
                batch.ref_logp = batch.sampler_logp
            if poisons(model, lambda batch=batch: backward(model, batch, counts, 1.0, config)[0]):
                found.append(group)
                break
    return found


def poisons(model: QwenVL, backward: Callable[[], float]) -> bool:
    """Say whether a backward pass, which returns its loss, gives a non-finite number; its gradients are dropped."""
    model.clear_gradients()
    loss = backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    finite = math.isfinite(loss) and all(bool(paddle.isfinite(g).all()) for g in gradients)
    model.clear_gradients()
    return not finite


class Stopwatch:
    """Seconds since it was last asked."""

    def __init__(self) -> None:
        self.last = self.start = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the previous lap."""
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        return seconds

    def total(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self.start
