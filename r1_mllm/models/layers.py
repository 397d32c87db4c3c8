# SPDX-License-Identifier: Apache-2.0
"""Layers both towers share, and rotary embedding as two products and one small GEMM.

Shape letters: T tokens (packed text tokens or patches), C width in, N width out, D head size.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from . import fused, host, kernels


class Linear(nn.Layer):
    """x [T, C] -> [T, N] with weight [C, N] (published files store [N, C]) and an optional bias [N]."""

    def __init__(self, in_features: int, out_features: int, bias: bool):
        super().__init__()
        self.weight = self.create_parameter(
            [in_features, out_features], default_initializer=nn.initializer.Normal(0, 0.02)
        )
        self.bias = self.create_parameter([out_features], is_bias=True) if bias else None
        self.adapter = None  # lora.FusedAdapter, where there is one

    @property
    def effective_weight(self) -> paddle.Tensor:
        """[C, N] weight with its adapters merged in; the weight itself where there are none."""
        return self.weight if self.adapter is None else self.adapter.merged(self.weight)

    def forward(self, x: paddle.Tensor, residual: paddle.Tensor | None = None) -> paddle.Tensor:
        """Apply the layer; `residual` [T, N] is added in the same GEMM where there is no bias."""
        if self.adapter is not None:
            added = self.adapter(x)
            residual = added if residual is None else residual + added
        if residual is None:
            return kernels.linear(x, self.weight, self.bias)
        if self.bias is None:
            return kernels.linear(x, self.weight, residual)
        return kernels.linear(x, self.weight, self.bias) + residual


class RMSNorm(nn.Layer):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = self.create_parameter([width], default_initializer=nn.initializer.Constant(1.0))
        self.eps = eps

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return kernels.rms_norm(x, self.weight, self.eps)


class LayerNorm(nn.Layer):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = self.create_parameter([width], default_initializer=nn.initializer.Constant(1.0))
        self.bias = self.create_parameter([width], is_bias=True)
        self.eps = eps

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.layer_norm(x, [x.shape[-1]], self.weight, self.bias, self.eps)


NORMS = {"rms": RMSNorm, "layer": LayerNorm}


class SwiGLU(nn.Layer):
    """down(silu(gate(x)) * up(x)); gate and up are one weight [C, 2I], gate first."""

    def __init__(self, width: int, intermediate: int, bias: bool):
        super().__init__()
        self.gate_up = Linear(width, 2 * intermediate, bias)
        self.down = Linear(intermediate, width, bias)

    def forward(self, x: paddle.Tensor, residual: paddle.Tensor) -> paddle.Tensor:
        if self.gate_up.adapter is not None or self.down.adapter is not None:
            gate, up = paddle.split(self.gate_up(x), 2, axis=1)
            return self.down(F.silu(gate) * up, residual)
        if self.down.bias is not None:
            residual = residual + self.down.bias
        return kernels.gated_mlp(x, self.gate_up.weight, self.down.weight, residual, self.gate_up.bias)


class QuickGELU(nn.Layer):
    """fc2(h * sigmoid(1.702 h)), h = fc1(x)."""

    def __init__(self, width: int, intermediate: int):
        super().__init__()
        self.fc1 = Linear(width, intermediate, True)
        self.fc2 = Linear(intermediate, width, True)

    def forward(self, x: paddle.Tensor, residual: paddle.Tensor) -> paddle.Tensor:
        h = self.fc1(x)
        return self.fc2(h * F.sigmoid(1.702 * h), residual)


def half_turn(head_dim: int, dtype: str) -> paddle.Tensor:
    """The [D, D] matrix with x @ half_turn = concat(-x[D/2:], x[:D/2]): a GEMM is the cheapest way to swap halves."""
    half = head_dim // 2
    matrix = np.zeros([head_dim, head_dim], np.float32)
    matrix[np.arange(half) + half, np.arange(half)] = -1.0
    matrix[np.arange(half), np.arange(half) + half] = 1.0
    return paddle.to_tensor(matrix, dtype=dtype)


class RotaryTables:
    """cos and sin for the heads of a fused [queries | keys | values] row; queries may carry the softmax scale.

    Where a loop does the work (host.py) they have a column per pair of a head.  Elsewhere they have one per column of
    the row, values get cos 1 and sin 0, and two products and a small GEMM do it all.
    """

    def __init__(self, angles: np.ndarray, heads: tuple[int, int, int], query_scale: float, dtype: str):
        """Args: angles: [T, D] radians, both halves.  heads: query, key and value heads.  query_scale: on queries."""
        self.by_loop = dtype == "float32" and kernels.on_cpu() and host.is_there()
        cos, sin = np.cos(angles, dtype=np.float32), np.sin(angles, dtype=np.float32)
        if self.by_loop:
            half, self.heads, self.query_scale = angles.shape[1] // 2, heads[:2], np.float32(query_scale)
            self.cos, self.sin = (np.ascontiguousarray(table[:, :half]) for table in (cos, sin))
            return
        self.by_kernel = not kernels.on_cpu() and fused.rotate_is_right(_rotate_apart, dtype)
        if self.by_kernel:
            self.heads, self.query_scale = heads, query_scale
            self.cos, self.sin = (paddle.to_tensor(table[None, :, None], dtype=dtype) for table in (cos, sin))
            return
        self.cos, self.sin = (
            paddle.to_tensor(table, dtype=dtype) for table in _full_width(cos, sin, heads, query_scale)
        )
        self.turn = half_turn(angles.shape[1], dtype)

    def apply(self, qkv: paddle.Tensor) -> paddle.Tensor:
        """Rotate qkv [T, heads * D], which nobody else needs; linear, so gradients pass through the transpose."""
        if paddle.is_grad_enabled() and not qkv.stop_gradient:
            return _Rotate.apply(qkv, self)
        return self.rotate(qkv, 1, in_place=True)

    def rotate(self, qkv: paddle.Tensor, direction: int, in_place: bool = False) -> paddle.Tensor:
        """Rotate without a gradient; direction -1 is the transpose.

        in_place: the tensor may be written to; it need not be what is returned.
        """
        if not self.by_loop and self.by_kernel:
            return fused.rotate(qkv, self.cos, self.sin * direction, self.heads, self.query_scale)
        if not self.by_loop:
            return rotate(qkv, self.cos, self.sin, self.turn if direction > 0 else -self.turn)
        tables = self.cos, self.sin if direction > 0 else -self.sin, self.heads, self.query_scale
        if in_place and qkv.is_contiguous():
            host.loops().rotate_in_place(host.array(qkv), *tables)
            return qkv
        out = paddle.empty_like(qkv)
        host.loops().rotate(host.array(qkv.contiguous()), *tables, host.array(out))
        return out


def _full_width(cos: np.ndarray, sin: np.ndarray, heads: tuple[int, int, int], query_scale: float):
    """Repeat cos and sin [T, D] over all heads of a fused row, [T, heads * D]; values get 1 and 0."""
    num_q, num_k, num_v = heads
    wide_cos = np.empty([len(cos), num_q + num_k + num_v, cos.shape[1]], np.float32)
    wide_sin = np.zeros_like(wide_cos)
    wide_cos[:, :num_q], wide_sin[:, :num_q] = (cos * query_scale)[:, None], (sin * query_scale)[:, None]
    wide_cos[:, num_q : num_q + num_k], wide_sin[:, num_q : num_q + num_k] = cos[:, None], sin[:, None]
    wide_cos[:, num_q + num_k :] = 1.0
    return wide_cos.reshape([len(cos), -1]), wide_sin.reshape([len(cos), -1])


def rotate(qkv: paddle.Tensor, cos: paddle.Tensor, sin: paddle.Tensor, turn: paddle.Tensor) -> paddle.Tensor:
    """qkv * cos + half_turn(qkv) * sin, all [T, heads * D]; turn [D, D].

    Both halves of a head have the same sin, so the product may come before the turn, and the turn's GEMM does the sum.
    """
    size = turn.shape[0]
    straight, across = (qkv * table for table in (cos, sin))
    return kernels.linear(across.reshape([-1, size]), turn, straight.reshape([-1, size])).reshape(qkv.shape)


def _rotate_apart(qkv: paddle.Tensor, cos: paddle.Tensor, sin: paddle.Tensor, heads, query_scale: float):
    """`fused.rotate` in plain operators: what the kernel is compared with."""
    angles = [table.reshape([cos.shape[1], cos.shape[3]]).astype("float32").numpy() for table in (cos, sin)]
    wide = (paddle.to_tensor(table, dtype=qkv.dtype) for table in _full_width(*angles, heads, query_scale))
    return rotate(qkv, *wide, half_turn(cos.shape[3], qkv.dtype))


class _Rotate(PyLayer):
    """Keeps nothing but the tables for the backward pass; the transpose of a turn is the turn the other way."""

    @staticmethod
    def forward(ctx, qkv, tables):
        ctx.tables = tables
        return tables.rotate(qkv, 1)

    @staticmethod
    def backward(ctx, grad):
        return ctx.tables.rotate(grad, -1, in_place=True)
