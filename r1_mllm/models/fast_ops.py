# SPDX-License-Identifier: Apache-2.0
"""Operators without the checks around them, for the decode loop: a step calls about 150 of them on tiny tensors.

`paddle._C_ops` is not a stable interface: it is used with the Paddle versions it was tried with (TRIED) and only where
every operator is there; otherwise the public call beside each serves.  tests/models/test_fast_ops.py compares them.
Axes must be non-negative: the bare operators do not normalise them, and `split` then returns wrong data.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import _C_ops
from paddle.nn import functional as F

TRIED = ("3.1", "3.2", "3.3")
_NEEDED = (
    "addmm",
    "add",
    "baddbmm",
    "bmm",
    "concat",
    "matmul",
    "multiply",
    "reshape",
    "set_value_with_tensor_",
    "silu",
    "softmax",
    "split",
    "transpose",
)


class _Bare:
    """The bare operators."""

    reshape, transpose = _C_ops.reshape, _C_ops.transpose
    multiply, add, bmm, silu = _C_ops.multiply, _C_ops.add, _C_ops.bmm, _C_ops.silu
    concat, split = _C_ops.concat, _C_ops.split

    @staticmethod
    def matmul(x, y):
        return _C_ops.matmul(x, y, False, False)

    @staticmethod
    def addmm(total, x, y):
        return _C_ops.addmm(total, x, y, 1.0, 1.0)

    @staticmethod
    def baddbmm(total, x, y):
        return _C_ops.baddbmm(total, x, y, 1.0, 1.0)

    @staticmethod
    def softmax(x):
        return _C_ops.softmax(x, x.ndim - 1)

    @staticmethod
    def write_column(cache, value, column, axis):
        _C_ops.set_value_with_tensor_(cache, value, [column], [column + 1], [1], [axis], [], [])


class _Public:
    """The same through the documented interface."""

    reshape, transpose = staticmethod(paddle.reshape), staticmethod(paddle.transpose)
    multiply, add = staticmethod(paddle.multiply), staticmethod(paddle.add)
    bmm, silu, matmul = staticmethod(paddle.bmm), staticmethod(F.silu), staticmethod(paddle.matmul)
    softmax, concat, split = staticmethod(F.softmax), staticmethod(paddle.concat), staticmethod(paddle.split)

    @staticmethod
    def addmm(total, x, y):
        return total + paddle.matmul(x, y)

    @staticmethod
    def baddbmm(total, x, y):
        return total + paddle.bmm(x, y)

    @staticmethod
    def write_column(cache, value, column, axis):
        if axis == 1:
            cache[:, column : column + 1] = value
        else:
            cache[:, :, column : column + 1] = value


_ops = _Bare if paddle.__version__.startswith(TRIED) and all(hasattr(_C_ops, name) for name in _NEEDED) else _Public


def reshape(x: paddle.Tensor, shape: Sequence[int]) -> paddle.Tensor:
    """View x in another shape."""
    return _ops.reshape(x, shape)


def transpose(x: paddle.Tensor, order: Sequence[int]) -> paddle.Tensor:
    """Permute the axes of x."""
    return _ops.transpose(x, order)


def split(x: paddle.Tensor, sizes: Sequence[int], axis: int) -> list[paddle.Tensor]:
    """Cut x along a non-negative axis."""
    return _ops.split(x, sizes, axis)


def concat(parts: Sequence[paddle.Tensor], axis: int) -> paddle.Tensor:
    """Join parts along a non-negative axis."""
    return _ops.concat(parts, axis)


def multiply(x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
    """x * y, same shapes."""
    return _ops.multiply(x, y)


def matmul(x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
    """x [N, C] @ y [C, M]."""
    return _ops.matmul(x, y)


def bmm(x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
    """x [B, N, C] @ y [B, C, M]."""
    return _ops.bmm(x, y)


def addmm(total: paddle.Tensor, x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
    """total + x @ y in one GEMM; total [N, M] or [M], x [N, C], y [C, M]."""
    return _ops.addmm(total, x, y)


def baddbmm(total: paddle.Tensor, x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
    """total + x @ y in one batched GEMM; total [B, N, M], x [B, N, C], y [B, C, M]."""
    return _ops.baddbmm(total, x, y)


def softmax(x: paddle.Tensor) -> paddle.Tensor:
    """Softmax over the last axis."""
    return _ops.softmax(x)


def silu(x: paddle.Tensor) -> paddle.Tensor:
    """x * sigmoid(x)."""
    return _ops.silu(x)


def write_column(cache: paddle.Tensor, value: paddle.Tensor, column: int, axis: int) -> None:
    """Write value (size 1 along axis 1 or 2) into a column of cache [B, N, M], in place."""
    _ops.write_column(cache, value, column, axis)
