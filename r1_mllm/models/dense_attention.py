# SPDX-License-Identifier: Apache-2.0
"""Attention in dense rectangles, with a hand-written gradient.

Every rectangle takes its rows straight from the fused [queries | keys | values] tensor by one gather each, so nothing
is split, transposed or padded beforehand; what the forward pass keeps for the gradient is one tensor of weights.

Where MKL is at hand (mkl.py) these weights are plain powers of the scores, and their sums divide the output instead: a
softmax would be three passes more over the largest tensor there is.  Sums that could be inexact send a rectangle to
the softmax.

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

from . import mkl

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
    seen: paddle.Tensor | None
    """[B, Q, S]: 1 where a query looks at a key, 0 where not; None when all may look at all."""


@dataclass
class _Weights:
    """What a part's queries make of its values."""

    weights: paddle.Tensor
    """[B, Q, S]: a softmax, or powers."""
    inverse: paddle.Tensor | None
    """[B * Q, D] one over each query's sum of powers, repeated; None for a softmax."""


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
    seen = None
    if rectangle.mask is not None:
        seen = paddle.to_tensor(np.ascontiguousarray(np.broadcast_to(rectangle.mask == 0, sizes)), dtype=dtype)
    home = np.where(rectangle.home < 0, num_rows, rectangle.home)  # padding reads the gradient's row of zeros
    rows = (rectangle.query, rectangle.key, rectangle.value, home)
    return _Part(sizes, *(paddle.to_tensor(index.reshape(-1)) for index in rows), seen)


def _take(rows: paddle.Tensor, index: paddle.Tensor, batch: int) -> paddle.Tensor:
    """rows [X, D], index [batch * N] -> [batch, N, D]."""
    return paddle.gather(rows, index).reshape([batch, -1, rows.shape[1]])


def _weigh(query: paddle.Tensor, key: paddle.Tensor, seen: paddle.Tensor | None) -> _Weights:
    """query [B, Q, D], key [B, S, D]."""
    head_dim, num_keys = query.shape[2], key.shape[1]
    scores = paddle.matmul(query, key, transpose_y=True)
    if mkl.serves(scores):
        powers = mkl.power_(scores)
        powers = powers if seen is None else powers.multiply_(seen)
        sums = paddle.matmul(powers.reshape([-1, num_keys]), paddle.ones([num_keys, 1]))
        if mkl.are_sure(sums):
            return _Weights(powers, paddle.matmul(sums.reciprocal_(), paddle.ones([1, head_dim])))
        scores = paddle.matmul(query, key, transpose_y=True)
    if seen is not None:
        scores = scores.add_((1 - seen) * MASKED)
    return _Weights(F.softmax(scores), None)


def _forward(rows: paddle.Tensor, layout: DenseLayout) -> tuple[paddle.Tensor, list[_Weights]]:
    """rows [T * A, D] -> outputs [T * H, D] and the weights of every part."""
    outs, kept = [], []
    for part in layout.parts:
        batch = part.sizes[0]
        found = _weigh(_take(rows, part.query, batch), _take(rows, part.key, batch), part.seen)
        out = paddle.bmm(found.weights, _take(rows, part.value, batch)).reshape([-1, layout.head_dim])
        outs.append(out if found.inverse is None else out.multiply_(found.inverse))
        kept.append(found)
    out = outs[0] if len(outs) == 1 else paddle.concat(outs)
    return paddle.gather(out, layout.back), kept


def _backward_part(rows, grad_rows, out_rows, found: _Weights, part: _Part) -> list[paddle.Tensor]:
    """Gradients of a part's query, key and value rows, each [B * N, D].

    With o = P v and P = softmax(s): ds = P * (do v' - rowsum(do * o)).  The subtraction rides in the product: do gets
    the column -rowsum(do * o) and v a column of ones.  With P = powers / sums, do is divided by the sums instead.
    """
    batch, head_dim = part.sizes[0], rows.shape[1]
    grad, out = _take(grad_rows, part.grad_rows, batch), _take(out_rows, part.grad_rows, batch)
    query, key = _take(rows, part.query, batch), _take(rows, part.key, batch)
    value, weights = _take(rows, part.value, batch), found.weights
    if found.inverse is not None:
        grad = grad.multiply_(found.inverse.reshape(grad.shape))
    grad_value = paddle.matmul(weights, grad, transpose_x=True)
    minus = paddle.matmul((grad * out).reshape([-1, head_dim]), paddle.full([head_dim, 1], -1.0, rows.dtype))
    wide_grad = paddle.concat([grad, minus.reshape([batch, -1, 1])], axis=2)
    wide_value = paddle.concat([value, paddle.ones([batch, value.shape[1], 1], rows.dtype)], axis=2)
    grad_scores = paddle.matmul(wide_grad, wide_value, transpose_y=True).multiply_(weights)
    grad_query = paddle.bmm(grad_scores, key)
    grad_key = paddle.matmul(grad_scores, query, transpose_x=True)
    return [tensor.reshape([-1, head_dim]) for tensor in (grad_query, grad_key, grad_value)]


class _DenseAttention(PyLayer):
    @staticmethod
    def forward(ctx, qkv, layout):
        rows = qkv.reshape([-1, layout.head_dim])
        out, kept = _forward(rows, layout)
        ctx.save_for_backward(rows, out)
        ctx.kept, ctx.layout, ctx.width = kept, layout, qkv.shape[1]
        return out.reshape([-1, layout.width])

    @staticmethod
    def backward(ctx, grad):
        layout = ctx.layout
        rows, out = ctx.saved_tensor()
        grad = grad.reshape([-1, layout.head_dim])
        if layout.padded:
            zero = paddle.zeros([1, layout.head_dim], grad.dtype)
            grad, out = paddle.concat([grad, zero]), paddle.concat([out, zero])
        parts = zip(ctx.kept, layout.parts, strict=True)
        found = [part for weights, p in parts for part in _backward_part(rows, grad, out, weights, p)]
        ctx.kept = None
        grad_rows = paddle.scatter(paddle.zeros_like(rows), layout.sources, paddle.concat(found), overwrite=False)
        return grad_rows.reshape([-1, ctx.width])


def attend_dense(qkv: paddle.Tensor, layout: DenseLayout) -> paddle.Tensor:
    """Attention of fused rows qkv [T, A * D], queries already scaled by 1/sqrt(D) -> [T, H * D]."""
    if paddle.is_grad_enabled() and not qkv.stop_gradient:
        return _DenseAttention.apply(qkv, layout)
    return _forward(qkv.reshape([-1, layout.head_dim]), layout)[0].reshape([-1, layout.width])
