# SPDX-License-Identifier: Apache-2.0
"""Paddle's fused GPU kernels behind the functions that plain operators serve elsewhere.

Called as Paddle documents them; this project has no GPU, so they were never run here.  Therefore each is compared with
plain operators, values and gradients, when it is first wanted, and one that fails or differs is left out with a
warning.  (SwiGLU is in kernels.py, FlashMask and unpadded flash attention are in attention.py.)

https://www.paddlepaddle.org.cn/documentation/docs/en/api/paddle/incubate/nn/functional/Overview_en.html

Shape letters: T tokens, C width, A heads of a fused [queries | keys | values] row, D head size.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence

import numpy as np
import paddle
from paddle.incubate.nn import functional as incubate
from paddle.nn import functional as F

TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Of the comparison before the first use."""

log = logging.getLogger(__name__)

Kernel = Callable[..., paddle.Tensor]


def rms_norm(x: paddle.Tensor, weight: paddle.Tensor, eps: float) -> paddle.Tensor:
    """Normalise x [T, C] by weight [C]: `paddle.nn.functional.rms_norm` (3.3), before it `fused_rms_norm`."""
    if hasattr(F, "rms_norm"):
        found = F.rms_norm(x, [x.shape[-1]], weight, eps)
    else:
        found = incubate.fused_rms_norm(x, weight, None, eps, x.ndim - 1)
    return found[0] if isinstance(found, tuple | list) else found


def rotate(
    qkv: paddle.Tensor, cos: paddle.Tensor, sin: paddle.Tensor, heads: Sequence[int], query_scale: float
) -> paddle.Tensor:
    """Turn queries and keys of qkv [T, A * D] by `fused_rotary_position_embedding`; values stay.

    Args:
        cos, sin: [1, T, 1, D], both halves.  heads: query, key and value heads.  query_scale: on queries.
    """
    shape = [1, qkv.shape[0], sum(heads), cos.shape[3]]
    q, k, v = paddle.split(qkv.reshape(shape), list(heads), axis=2)
    # Paddle names it the other way round: False pairs the halves of a head, as published checkpoints do
    q, k, _ = incubate.fused_rotary_position_embedding(q, k, None, sin=sin, cos=cos, use_neox_rotary_style=False)
    if query_scale != 1.0:
        q = q * query_scale
    return paddle.concat([q, k, v], axis=2).reshape(qkv.shape)


@functools.cache
def rms_norm_is_right(plain: Kernel, dtype: str) -> bool:
    """Compare `rms_norm` with plain(x, weight, eps), gradients too."""
    x, weight = _noise([5, 64], dtype, 1), _noise([64], dtype, 2)
    return _agree("rms_norm", lambda kernel: kernel(x, weight, 1e-6), (rms_norm, plain), dtype, (x, weight))


@functools.cache
def rotate_is_right(plain: Kernel, dtype: str) -> bool:
    """Compare `rotate` with plain of the same arguments; its gradient is `rotate` the other way."""
    heads, angles = (3, 1, 1), np.random.default_rng(3).uniform(0, 6, [5, 16])
    tables = [_tensor(part(np.tile(angles, [1, 2]))[None, :, None], dtype) for part in (np.cos, np.sin)]
    qkv = _noise([5, 5 * 32], dtype, 4)
    return _agree("rotary embedding", lambda kernel: kernel(qkv, *tables, heads, 0.5), (rotate, plain), dtype)


def _agree(
    name: str, call: Callable, kernels: tuple[Kernel, Kernel], dtype: str, trained: Sequence[paddle.Tensor] = ()
) -> bool:
    """Call both; the first must give what the second gives, and the same gradients of the sum of squares."""
    found = []
    try:
        for kernel in kernels:
            with paddle.set_grad_enabled(bool(trained)):
                out = call(kernel)
                grads = paddle.grad((out * out).sum(), list(trained)) if trained else []
            found.append([tensor.astype("float32").numpy() for tensor in (out, *grads)])
    except (RuntimeError, ValueError, TypeError, OSError, AttributeError) as error:
        log.warning("Paddle's fused %s does not run here (%s): plain operators are used", name, _first_line(error))
        return False
    pairs = zip(*found, strict=True)
    if all(np.abs(ours - plain).max() <= TOLERANCE[dtype] * max(1.0, np.abs(plain).max()) for ours, plain in pairs):
        return True
    log.warning("Paddle's fused %s gives other numbers here: plain operators are used", name)
    return False


def _noise(shape: list[int], dtype: str, seed: int) -> paddle.Tensor:
    tensor = _tensor(np.random.default_rng(seed).normal(size=shape), dtype)
    tensor.stop_gradient = False
    return tensor


def _tensor(values: np.ndarray, dtype: str) -> paddle.Tensor:
    return paddle.to_tensor(values.astype(np.float32)).astype(dtype)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
