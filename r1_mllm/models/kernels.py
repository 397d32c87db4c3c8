# SPDX-License-Identifier: Apache-2.0
"""The few operators whose obvious spelling is slow on a CPU, each with its public-API fallback.

`paddle._C_ops` is not a stable interface, so every call to it stands here, guarded by a look-up at import and compared
with the public spelling in tests/models/test_kernels.py.

Shape letters: T tokens, C hidden size, I intermediate size, N output size.
"""

from __future__ import annotations

import paddle
from paddle import _C_ops
from paddle.autograd import PyLayer
from paddle.nn import functional as F

_HAS_ADDMM = hasattr(_C_ops, "addmm")
_HAS_QUANT_NORM = hasattr(_C_ops, "fused_rms_norm_quant")
_swiglu_kernel = F.swiglu if hasattr(F, "swiglu") else paddle.incubate.nn.functional.swiglu  # moved in Paddle 3.3


def on_cpu() -> bool:
    """Say whether tensors are made on the CPU."""
    return paddle.get_device() == "cpu"


def linear(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None = None) -> paddle.Tensor:
    """Multiply x [T, C] with weight [C, N] and add bias [N] (or a residual [T, N]); returns [T, N].

    One GEMM with beta = 1 instead of a product and a broadcast sum.
    """
    if bias is None:
        return paddle.matmul(x, weight)
    if _HAS_ADDMM:
        return _C_ops.addmm(bias, x, weight, 1.0, 1.0)
    return paddle.matmul(x, weight) + bias


def _rms_norm_plain(x: paddle.Tensor, weight: paddle.Tensor, eps: float) -> paddle.Tensor:
    x32 = x.astype("float32")
    scale = paddle.rsqrt((x32 * x32).mean(-1, keepdim=True) + eps)
    return (x32 * scale).astype(x.dtype) * weight


def _rms_norm_fused(x: paddle.Tensor, weight: paddle.Tensor, eps: float) -> paddle.Tensor:
    return _C_ops.fused_rms_norm_quant(x, None, None, weight, None, eps, 1, -1.0, 0, 0.0, 0.0)[0]


def _row_mean(x: paddle.Tensor) -> paddle.Tensor:
    """Return the mean of each row of x [T, C] as [T, 1]; a product with a column is faster than a reduction."""
    return paddle.matmul(x, paddle.full([x.shape[1], 1], 1.0 / x.shape[1], x.dtype))


class _RMSNorm(PyLayer):
    """The CPU kernel has no gradient of its own."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return _rms_norm_fused(x, weight, eps)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensor()
        scale = paddle.rsqrt(_row_mean(x * x) + ctx.eps)
        x_hat = x * scale
        grad_x_hat = grad * x_hat
        grad_weight = None
        if not weight.stop_gradient:
            grad_weight = paddle.matmul(paddle.ones([1, x.shape[0]], x.dtype), grad_x_hat).reshape([-1])
        if x.stop_gradient:
            return None, grad_weight
        mean = paddle.matmul(grad_x_hat, weight.reshape([-1, 1])) * (1.0 / x.shape[1])
        return (grad * weight - x_hat * mean) * scale, grad_weight


def rms_norm(x: paddle.Tensor, weight: paddle.Tensor, eps: float) -> paddle.Tensor:
    """Divide each row of x [T, C] by its root mean square and scale by weight [C]; statistics in float32."""
    if _HAS_QUANT_NORM and x.dtype == paddle.float32 and on_cpu():
        if not paddle.is_grad_enabled() or (x.stop_gradient and weight.stop_gradient):
            return _rms_norm_fused(x, weight, eps)
        return _RMSNorm.apply(x, weight, eps)
    return _rms_norm_plain(x, weight, eps)


class _SwiGLU(PyLayer):
    """silu(gate) * up with a hand-written gradient: the fused CPU kernel's own is several times slower."""

    @staticmethod
    def forward(ctx, gate_up):
        gate, up = paddle.split(gate_up, 2, axis=1)
        sigmoid = F.sigmoid(gate)
        silu = gate * sigmoid
        ctx.save_for_backward(sigmoid, silu, up)
        return silu * up

    @staticmethod
    def backward(ctx, grad):
        sigmoid, silu, up = ctx.saved_tensor()
        # d silu = sigmoid + silu * (1 - sigmoid)
        slope = sigmoid + silu - silu * sigmoid
        return paddle.concat([grad * up * slope, grad * silu], axis=1)


def swiglu(gate_up: paddle.Tensor) -> paddle.Tensor:
    """Return silu(gate) * up [T, I] of gate_up [T, 2I], gate first."""
    if not on_cpu():
        return _swiglu_kernel(gate_up)
    if gate_up.dtype == paddle.float32 and paddle.is_grad_enabled() and not gate_up.stop_gradient:
        return _SwiGLU.apply(gate_up)
    if gate_up.shape[0] <= 32:
        return _swiglu_kernel(gate_up)
    gate, up = paddle.split(gate_up, 2, axis=1)
    return F.silu(gate) * up


def masked_scores(mask: paddle.Tensor, q: paddle.Tensor, k_transposed: paddle.Tensor) -> paddle.Tensor:
    """Return mask + q @ k_transposed [B, Q, S] for mask [B, Q, S], q [B, Q, D], k_transposed [B, D, S].

    One batched GEMM with beta = 1; adding a broadcast mask afterwards costs ten times the product on a CPU.
    """
    return paddle.baddbmm(mask, q, k_transposed)
