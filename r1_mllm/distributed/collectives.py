# SPDX-License-Identifier: Apache-2.0
"""The exchanges data-parallel training needs; in a single process each returns what it was given.

Every rank must make the same calls in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import paddle
import paddle.distributed as dist

from .gate import meet
from .heartbeat import waiting

_BUCKET_ELEMENTS = 1 << 24
"""Gradients are exchanged together up to this many numbers (64 MB of float32)."""


def world() -> int:
    """Return how many processes take part."""
    return dist.get_world_size() if dist.is_initialized() else 1


@waiting()
def sum_gradients(parameters: Iterable[paddle.Tensor]) -> None:
    """Replace each trainable parameter's gradient (its own shape) by the sum over all ranks, in float32.

    A parameter without a gradient on this rank counts as zeros, so ranks may see different kinds of rows; one that has
    none on any rank keeps none.
    """
    if world() == 1:
        return
    bucket: list[paddle.Tensor] = []
    size = 0
    for parameter in parameters:
        if parameter.stop_gradient:
            continue
        bucket.append(parameter)
        size += parameter.size
        if size >= _BUCKET_ELEMENTS:
            _sum_bucket(bucket)
            bucket, size = [], 0
    if bucket:
        _sum_bucket(bucket)


def _sum_bucket(parameters: list[paddle.Tensor]) -> None:
    present = paddle.to_tensor([float(parameter.grad is not None) for parameter in parameters], "float32")
    parts = [present] + [
        paddle.zeros([parameter.size], "float32")
        if parameter.grad is None
        else parameter.grad.astype("float32").reshape([-1])
        for parameter in parameters
    ]
    flat = paddle.concat(parts)  # [parameters + sum of sizes]
    meet()
    dist.all_reduce(flat)
    start = len(parameters)
    for parameter, count in zip(parameters, flat[:start].tolist(), strict=True):
        if count == 0:
            start += parameter.size
            continue
        total = flat[start : start + parameter.size].reshape(parameter.shape).astype(parameter.dtype)
        start += parameter.size
        if parameter.grad is None:
            parameter.grad = total
        else:
            parameter.grad.set_value(total.astype(parameter.grad.dtype))


@waiting()
def sum_scalars(values: Mapping[str, float]) -> dict[str, float]:
    """Return each number summed over all ranks, in float64; every rank must give the same names."""
    if world() == 1:
        return dict(values)
    names = sorted(values)
    total = paddle.to_tensor([float(values[name]) for name in names], dtype="float64")
    meet()
    dist.all_reduce(total)
    return dict(zip(names, total.tolist(), strict=True))


@waiting()
def gather_objects(value: Any) -> list[Any]:
    """Return every rank's value, in rank order, on every rank."""
    if world() == 1:
        return [value]
    meet()
    gathered: list[Any] = []
    dist.all_gather_object(gathered, value)
    return gathered


@waiting()
def broadcast_object(value: Any, source: int = 0) -> Any:
    """Return the value rank `source` gave."""
    if world() == 1:
        return value
    meet()
    box = [value]
    dist.broadcast_object_list(box, src=source)
    return box[0]


@waiting()
def barrier() -> None:
    """Wait until every rank is here."""
    if world() > 1:
        meet()
        dist.barrier()
