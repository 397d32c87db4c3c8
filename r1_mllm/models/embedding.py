# SPDX-License-Identifier: Apache-2.0
"""Rows of the embedding table, whose gradient is added row by row to what already stands on the table.

Paddle's own gradient is a second table of mostly zeros: 1.2 GB for the vocabulary of Qwen2.5-VL-3B, beside that of the
head that shares the table.

Shape letters: T tokens, V vocabulary, C hidden size.
"""

from __future__ import annotations

import paddle
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from . import host


class _Rows(PyLayer):
    """The table comes in a function: Paddle wants a gradient for every tensor it sees.  The anchor makes rows learn."""

    @staticmethod
    def forward(ctx, anchor, ids, table):
        ctx.table, ctx.ids = table(), ids.numpy()
        return F.embedding(ids, ctx.table)

    @staticmethod
    def backward(ctx, grad):
        table = ctx.table
        if table.grad is None:
            table.grad = paddle.zeros_like(table)
        host.loops().add_rows(host.array(grad.contiguous()), ctx.ids, host.array(table.grad))
        return paddle.zeros([1])


def rows(ids: paddle.Tensor, table: paddle.Tensor) -> paddle.Tensor:
    """Look ids [T] int64 up in a table [V, C]: [T, C].

    A table whose gradient leaves during the backward pass (`gradient_is_awaited`) gets it from Paddle, complete.
    """
    awaited = getattr(table, "gradient_is_awaited", False)
    if awaited or table.stop_gradient or not paddle.is_grad_enabled() or not host.serves(table):
        return F.embedding(ids, table)
    anchor = paddle.zeros([1])
    anchor.stop_gradient = False
    return _Rows.apply(anchor, ids, lambda: table)
