# SPDX-License-Identifier: Apache-2.0
"""Attention in dense rectangles, with a hand-written gradient.

Every rectangle takes its rows straight from the fused [queries | keys | values] tensor by one gather each, so nothing
is split, transposed or padded beforehand; what the forward pass keeps for the gradient is the softmax alone.

Shape letters: T tokens, D head size, A heads of a fused row (queries, keys and values), H query heads; a rectangle has
B batches of Q queries and S keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import paddle
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from . import host

MASKED = -1e9
"""Added to scores that must not count.  Finite: a row of -inf would make softmax NaN."""

MAX_SCORES = 1 << 22
"""Scores of one product (16 MB in float32): the softmax then finds them in the processor's cache."""


@dataclass
class Rectangle:
    """Which rows meet which, as rows of qkv.reshape([T * A, D])."""

    query: np.ndarray
    """[B, Q] int64."""
    home: np.ndarray
    """[B, Q] int64 row of the output [T * H, D]; -1 for padding."""
    key: np.ndarray
    """[B, S] int64."""
    value: np.ndarray
    """[B, S] int64."""
    mask: np.ndarray | None
    """[B, Q, S] float32 or broadcastable to it, 0 or MASKED; None when all may look at all."""


@dataclass
class _Part:
    """A rectangle as tensors."""

    sizes: tuple[int, int, int]
    query: paddle.Tensor
    key: paddle.Tensor
    value: paddle.Tensor
    grad_rows: paddle.Tensor
    mask: paddle.Tensor | None


class DenseLayout:
    """Rectangles that together compute the output of every token, made once per pack for all layers."""

    def __init__(self, rectangles: list[Rectangle], num_tokens: int, num_heads: int, head_dim: int, dtype: str):
        """Args: num_heads: query heads H.  dtype: of the scores."""
        self.num_rows, self.head_dim, self.width = num_tokens * num_heads, head_dim, num_heads * head_dim
        homes = np.concatenate([rectangle.home.reshape(-1) for rectangle in rectangles])
        self.padded = bool((homes < 0).any())
        back = np.empty([self.num_rows], np.int64)
        back[homes[homes >= 0]] = np.flatnonzero(homes >= 0)
        self.back = paddle.to_tensor(back)
        pieces = [piece for rectangle in rectangles for piece in _pieces(rectangle)]
        self.parts = [_part(piece, self.num_rows, dtype) for piece in pieces]
        self.sources = paddle.concat([rows for part in self.parts for rows in (part.query, part.key, part.value)])

    def attend(self, qkv: paddle.Tensor) -> paddle.Tensor:
        """Attention of fused rows qkv [T, A * D], queries already scaled by 1/sqrt(D) -> [T, H * D]."""
        if paddle.is_grad_enabled() and not qkv.stop_gradient:
            return _DenseAttention.apply(qkv, self)
        return _forward(qkv.reshape([-1, self.head_dim]), self)[0].reshape([-1, self.width])


def _pieces(rectangle: Rectangle) -> Iterator[Rectangle]:
    """Cut a rectangle along its batches so that each piece has at most MAX_SCORES scores."""
    batch, num_q = rectangle.query.shape
    step = max(1, MAX_SCORES // (num_q * rectangle.key.shape[1]))
    for start in range(0, batch, step):
        cut = slice(start, start + step)
        mask = rectangle.mask
        yield Rectangle(
            rectangle.query[cut],
            rectangle.home[cut],
            rectangle.key[cut],
            rectangle.value[cut],
            mask if mask is None or len(mask) == 1 else mask[cut],
        )


def _part(rectangle: Rectangle, num_rows: int, dtype: str) -> _Part:
    batch, num_q = rectangle.query.shape
    sizes = (batch, num_q, rectangle.key.shape[1])
    mask = rectangle.mask
    if mask is not None:
        mask = paddle.to_tensor(np.ascontiguousarray(np.broadcast_to(mask, sizes)), dtype=dtype)
    home = np.where(rectangle.home < 0, num_rows, rectangle.home)  # padding reads the gradient's row of zeros
    rows = (rectangle.query, rectangle.key, rectangle.value, home)
    return _Part(sizes, *(paddle.to_tensor(index.reshape(-1)) for index in rows), mask)


def _take(rows: paddle.Tensor, index: paddle.Tensor, batch: int) -> paddle.Tensor:
    """rows [X, D], index [batch * N] -> [batch, N, D]."""
    return paddle.gather(rows, index).reshape([batch, -1, rows.shape[1]])


def _forward(rows: paddle.Tensor, layout: DenseLayout) -> tuple[paddle.Tensor, list[paddle.Tensor]]:
    """rows [T * A, D] -> outputs [T * H, D] and the softmax [B, Q, S] of every part."""
    outs, kept = [], []
    for part in layout.parts:
        batch = part.sizes[0]
        scores = paddle.matmul(_take(rows, part.query, batch), _take(rows, part.key, batch), transpose_y=True)
        weights = _softmax(scores, part.mask)
        outs.append(paddle.bmm(weights, _take(rows, part.value, batch)).reshape([-1, layout.head_dim]))
        kept.append(weights)
    out = outs[0] if len(outs) == 1 else paddle.concat(outs)
    return paddle.gather(out, layout.back), kept


def _softmax(scores: paddle.Tensor, mask: paddle.Tensor | None) -> paddle.Tensor:
    """Softmax of scores + mask, both [B, Q, S]; scores are overwritten."""
    if not host.serves(scores):
        return F.softmax(scores if mask is None else scores.add_(mask))
    rows = host.array(scores).reshape([-1, scores.shape[2]])
    if mask is None:
        host.loops().softmax(rows)
    else:
        host.loops().masked_softmax(rows, host.array(mask).reshape(rows.shape))
    return scores


def _softmax_gradient(weights, grad, value, out) -> paddle.Tensor:
    """Gradient of a part's scores [B, Q, S] from that of its output, grad [B, Q, D].

    With o = P v and P = softmax(s): ds = P * (do v' - rowsum(do * o)).  Where no loop does it, the subtraction rides in
    the product: do gets the column -rowsum(do * o) and v a column of ones.
    """
    if host.serves(weights):
        grad_weights = paddle.matmul(grad, value, transpose_y=True)
        rows = [part.reshape([-1, weights.shape[2]]) for part in host.arrays(weights, grad_weights)]
        host.loops().softmax_gradient(*rows)
        return grad_weights
    batch, _, head_dim = grad.shape
    minus = paddle.matmul((grad * out).reshape([-1, head_dim]), paddle.full([head_dim, 1], -1.0, grad.dtype))
    wide_grad = paddle.concat([grad, minus.reshape([batch, -1, 1])], axis=2)
    wide_value = paddle.concat([value, paddle.ones([batch, value.shape[1], 1], grad.dtype)], axis=2)
    return paddle.matmul(wide_grad, wide_value, transpose_y=True).multiply_(weights)


def _backward_part(rows, grad_rows, out_rows, weights, part: _Part) -> list[paddle.Tensor]:
    """Gradients of a part's query, key and value rows, each [B * N, D]."""
    batch, head_dim = part.sizes[0], rows.shape[1]
    grad, out = _take(grad_rows, part.grad_rows, batch), _take(out_rows, part.grad_rows, batch)
    query, key = _take(rows, part.query, batch), _take(rows, part.key, batch)
    grad_value = paddle.matmul(weights, grad, transpose_x=True)
    grad_scores = _softmax_gradient(weights, grad, _take(rows, part.value, batch), out)
    grad_query = paddle.bmm(grad_scores, key)
    grad_key = paddle.matmul(grad_scores, query, transpose_x=True)
    return [tensor.reshape([-1, head_dim]) for tensor in (grad_query, grad_key, grad_value)]


class _DenseAttention(PyLayer):
    @staticmethod
    def forward(ctx, qkv, layout):
        rows = qkv.reshape([-1, layout.head_dim])
        out, kept = _forward(rows, layout)
        ctx.save_for_backward(rows, out, *kept)
        ctx.layout, ctx.width = layout, qkv.shape[1]
        return out.reshape([-1, layout.width])

    @staticmethod
    def backward(ctx, grad):
        layout = ctx.layout
        rows, out, *kept = ctx.saved_tensor()
        grad = grad.reshape([-1, layout.head_dim])
        if layout.padded:
            zero = paddle.zeros([1, layout.head_dim], grad.dtype)
            grad, out = paddle.concat([grad, zero]), paddle.concat([out, zero])
        parts = zip(kept, layout.parts, strict=True)
        found = [part for weights, p in parts for part in _backward_part(rows, grad, out, weights, p)]
        grad_rows = paddle.scatter(paddle.zeros_like(rows), layout.sources, paddle.concat(found), overwrite=False)
        return grad_rows.reshape([-1, ctx.width])
