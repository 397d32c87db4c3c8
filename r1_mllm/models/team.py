# SPDX-License-Identifier: Apache-2.0
"""A model and twins of it that share its weights and have gradients of their own, one per thread of a CPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TypeVar

import paddle

from . import lora, threads
from .qwen_vl import QwenVL

Item = TypeVar("Item")
Result = TypeVar("Result")

_twins: weakref.WeakKeyDictionary[QwenVL, list[QwenVL]] = weakref.WeakKeyDictionary()


def members(model: QwenVL, size: int) -> list[QwenVL]:
    """The model and size - 1 twins, made once and brought up to date."""
    twins = _twins.setdefault(model, [])
    while len(twins) < size - 1:
        with paddle.LazyGuard():  # parameters without memory of their own
            twins.append(QwenVL(model.arch))
            lora.attach_like(twins[-1], model)
    for twin in twins[: size - 1]:
        twin.attn_implementation, twin.recompute = model.attn_implementation, model.recompute
        twin.freeze_vision, twin.training = model.freeze_vision, model.training
        for own, shared in zip(twin.parameters(), model.parameters(), strict=True):
            shared._share_buffer_to(own)
            own.stop_gradient = shared.stop_gradient
    return [model, *twins[: size - 1]]


def gather(model: QwenVL) -> None:
    """Add the twins' gradients to the model's, twin after twin, and drop them there."""
    for twin in _twins.get(model, ()):
        _gather_gradients(model, twin)


def _gather_gradients(model: QwenVL, twin: QwenVL) -> None:
    with paddle.no_grad():
        for own, shared in zip(twin.parameters(), model.parameters(), strict=True):
            if own.grad is None:
                continue
            if shared.grad is None:
                shared.grad = own.grad
            else:
                shared.grad.add_(own.grad)
            own.clear_gradient(False)


def run(
    model: QwenVL,
    function: Callable[[QwenVL, Item], Result],
    items: Sequence[Item],
    accumulated: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Run forward and backward passes over items and leave the sum of their gradients on the model.

    Thread i of n takes items i, i + n, ... in order, and gradients are summed in the order of the threads, so the same
    items give the same bits.

    Args:
        function: called with a model (it or a twin) and an item; ends with a backward pass.
        accumulated: called each time new gradients stand on the model.

    Returns:
        What function gave for each item, in order.
    """
    size = threads.lanes(len(items))
    if size < 2:
        results = []
        for item in items:
            results.append(function(model, item))
            accumulated()
        return results
    team = members(model, size)

    def lane(i: int) -> list[Result]:
        return [function(team[i], item) for item in items[i::size]]

    lanes = threads.run(lane, range(size))
    gather(model)
    accumulated()
    return [lanes[i % size][i // size] for i in range(len(items))]
