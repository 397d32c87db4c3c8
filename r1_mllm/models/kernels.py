# SPDX-License-Identifier: Apache-2.0
"""The few operators whose obvious spelling is slow on a CPU, each with its public-API fallback.

`paddle._C_ops` is not a stable interface: calls to it stand here, in fast_ops.py and in training/optimizer.py.  Those
here are guarded by a look-up at import and compared with the public spelling in tests/models/test_kernels.py.

Shape letters: T tokens, C hidden size, I intermediate size, N output size.
"""

from __future__ import annotations

import paddle
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from . import fast_ops, fused, host, mkl

_swiglu_kernel = F.swiglu if hasattr(F, "swiglu") else paddle.incubate.nn.functional.swiglu  # moved in Paddle 3.3


def on_cpu() -> bool:
    """Say whether tensors are made on the CPU."""
    return paddle.get_device() == "cpu"


def column_sums(x: paddle.Tensor) -> paddle.Tensor:
    """Sum x [T, N] over its rows, [N]; a product with a row of ones is ten times faster than a reduction."""
    return paddle.matmul(paddle.ones([1, x.shape[0]], x.dtype), x).reshape([-1])


def _filled(rows: int, bias: paddle.Tensor) -> paddle.Tensor:
    """Repeat a bias [N] in `rows` rows, for a product to be added to; Paddle's own way takes three times as long."""
    out = paddle.empty([rows, bias.shape[0]], bias.dtype)
    host.array(out)[:] = host.array(bias)
    return out


def _product_with_bias(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
    if bias.ndim > 1 or not host.serves(x) or not weight.dtype == bias.dtype == x.dtype:
        return fast_ops.addmm(bias, x, weight)
    out = _filled(x.shape[0], bias)
    mkl.product(mkl.whole(x.contiguous()), mkl.whole(weight), mkl.whole(out), add=True)
    return out


def linear_gradient(
    x: paddle.Tensor, weight: paddle.Tensor, grad: paddle.Tensor, wants_x: bool = True
) -> tuple[paddle.Tensor | None, paddle.Tensor | None]:
    """Gradients of x [T, C] and weight [C, N] from that of x @ weight; a frozen weight has none."""
    grad_x = paddle.matmul(grad, weight, transpose_y=True) if wants_x else None
    return grad_x, None if weight.stop_gradient else paddle.matmul(x, grad, transpose_x=True)


class _BiasLinear(PyLayer):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _product_with_bias(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensor()
        grad_x, grad_weight = linear_gradient(x, weight, grad, not x.stop_gradient)
        return grad_x, grad_weight, None if grad_weight is None else column_sums(grad)


def linear(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None = None) -> paddle.Tensor:
    """Multiply x [T, C] with weight [C, N] and add bias [N] (or a residual [T, N]); returns [T, N].

    One GEMM with beta = 1 instead of a product and a broadcast sum.
    """
    if bias is None:
        return paddle.matmul(x, weight)
    frozen = x.stop_gradient and weight.stop_gradient
    if not paddle.is_grad_enabled() or (frozen and bias.stop_gradient):
        return _product_with_bias(x, weight, bias)
    if bias.ndim == 1 and on_cpu() and not frozen:
        return _BiasLinear.apply(x, weight, bias)
    return fast_ops.addmm(bias, x, weight)


def _rms_norm_plain(x: paddle.Tensor, weight: paddle.Tensor, eps: float) -> paddle.Tensor:
    x32 = x.astype("float32")
    scale = paddle.rsqrt((x32 * x32).mean(-1, keepdim=True) + eps)
    return (x32 * scale).astype(x.dtype) * weight


def _rms_norm_looped(x: paddle.Tensor, weight: paddle.Tensor, eps: float) -> paddle.Tensor:
    out = paddle.empty_like(x)
    host.loops().rms_norm(*host.arrays(x, weight), eps, host.array(out))
    return out


def rms_norm_gradient(
    x: paddle.Tensor, weight: paddle.Tensor, eps: float, grad: paddle.Tensor
) -> tuple[paddle.Tensor, paddle.Tensor | None]:
    """Gradients of x [T, C] and weight [C] from that of `rms_norm`, for tensors that `host` serves."""
    grad_x, grad_weight = paddle.empty_like(x), paddle.empty_like(weight)
    host.loops().rms_norm_gradient(*host.arrays(x, weight, grad), eps, *host.arrays(grad_x, grad_weight))
    return grad_x, None if weight.stop_gradient else grad_weight


class _RMSNorm(PyLayer):
    """For tensors that `host` serves."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return _rms_norm_looped(x, weight, eps)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensor()
        grad_x, grad_weight = rms_norm_gradient(x, weight, ctx.eps, grad)
        return None if x.stop_gradient else grad_x, grad_weight


def rms_norm(x: paddle.Tensor, weight: paddle.Tensor, eps: float) -> paddle.Tensor:
    """Divide each row of x [T, C] by its root mean square and scale by weight [C]; statistics in float32."""
    if not (host.serves(x) and weight.dtype == x.dtype):
        if not on_cpu() and fused.rms_norm_is_right(_rms_norm_plain, x.dtype.name.lower()):
            return fused.rms_norm(x, weight, eps)
        return _rms_norm_plain(x, weight, eps)
    if not paddle.is_grad_enabled() or (x.stop_gradient and weight.stop_gradient):
        return _rms_norm_looped(x, weight, eps)
    return _RMSNorm.apply(x, weight, eps)


def _gate_and_up(x, gate_up, bias) -> list[paddle.Tensor]:
    """x [T, C] @ gate_up [C, 2I] + bias [2I] as two tensors [T, I], without a copy that cuts one in half."""
    rows, width = x.shape[0], gate_up.shape[1] // 2
    halves = []
    for first in (0, width):
        if bias is None:
            half = paddle.empty([rows, width], x.dtype)
        else:
            half = _filled(rows, bias[first : first + width])
        mkl.product(mkl.whole(x), mkl.Window(gate_up, first, width), mkl.whole(half), add=bias is not None)
        halves.append(half)
    return halves


class _GatedMLP(PyLayer):
    """residual + down(silu(gate(x)) * up(x)) with a hand-written gradient; for tensors that `host` serves."""

    @staticmethod
    def forward(ctx, x, gate_up, down, residual, *bias):
        gate, up = _gate_and_up(x, gate_up, *(bias or [None]))
        ctx.save_for_backward(x, gate_up, down, gate, up)
        ctx.has_bias, ctx.residual_trains = bool(bias), not residual.stop_gradient
        return fast_ops.addmm(residual, _silu_times(gate, up), down)

    @staticmethod
    def backward(ctx, grad):
        x, gate_up, down, gate, up = ctx.saved_tensor()
        grads = gated_mlp_gradient(x, gate_up, down, gate, up, grad, ctx.has_bias, not x.stop_gradient)
        return *grads[:3], grad if ctx.residual_trains else None, *grads[3:]


def gated_mlp_gradient(x, gate_up, down, gate, up, grad, has_bias: bool = False, wants_x: bool = True) -> tuple:
    """Gradients of x, gate_up, down and, where there is one, the bias, from that of `gated_mlp`, grad [T, C].

    gate, up [T, I]: x @ gate_up + bias.  For tensors that `host` serves; frozen weights have none.
    """
    width = down.shape[0]
    grad_gate = paddle.matmul(grad, down, transpose_y=True)  # of the product first
    grad_up, hidden = paddle.empty_like(up), paddle.empty_like(up)
    host.loops().silu_times_gradient(*host.arrays(gate, up, grad_gate, grad_up, hidden))
    halves = [(grad_gate, mkl.Window(gate_up, 0, width)), (grad_up, mkl.Window(gate_up, width, width))]
    grad_x = None
    if wants_x:
        grad_x = paddle.empty_like(x)
        for i, (half, weight) in enumerate(halves):
            mkl.product(mkl.whole(half), weight, mkl.whole(grad_x), transpose_y=True, add=i > 0)
    if gate_up.stop_gradient:
        return (grad_x, None, None) + (None,) * has_bias
    grad_weight = paddle.empty_like(gate_up)
    for half, weight in halves:
        window = mkl.Window(grad_weight, weight.first, width)
        mkl.product(mkl.whole(x), mkl.whole(half), window, transpose_x=True)
    grads = grad_x, grad_weight, paddle.matmul(hidden, grad, transpose_x=True)
    return (*grads, paddle.concat([column_sums(grad_gate), column_sums(grad_up)])) if has_bias else grads


def _silu_times(gate: paddle.Tensor, up: paddle.Tensor) -> paddle.Tensor:
    out = paddle.empty_like(gate)
    host.loops().silu_times(*host.arrays(gate, up, out))
    return out


def gated_mlp(
    x: paddle.Tensor,
    gate_up: paddle.Tensor,
    down: paddle.Tensor,
    residual: paddle.Tensor,
    bias: paddle.Tensor | None = None,
) -> paddle.Tensor:
    """Return residual + (silu(gate) * up) @ down, [T, C].

    Args:
        x: [T, C].  gate_up: [C, 2I], gate first.  down: [I, C].  residual: [T, C].  bias: [2I] of gate and up.
    """
    if host.serves(x) and x.dtype == gate_up.dtype == down.dtype:
        if paddle.is_grad_enabled() and not (x.stop_gradient and gate_up.stop_gradient):
            return _GatedMLP.apply(x, gate_up, down, residual, *([] if bias is None else [bias]))
        gate, up = _gate_and_up(x, gate_up, bias)
        return fast_ops.addmm(residual, _silu_times(gate, up), down)
    both = linear(x, gate_up, bias)
    if not on_cpu():
        return fast_ops.addmm(residual, _swiglu_kernel(both), down)
    gate, up = paddle.split(both, 2, axis=1)
    return fast_ops.addmm(residual, F.silu(gate) * up, down)
