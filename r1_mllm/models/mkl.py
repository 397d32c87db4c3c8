# SPDX-License-Identifier: Apache-2.0
"""Exponentials from the vector mathematics library inside Paddle's CPU wheels, which Paddle's own operators leave unused.

`vsExp` of MKL takes all threads and is about eight times as fast as `paddle.exp` or a softmax.  It is reached through
the C interface that Intel documents; where the library is missing the public operators serve.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import paddle

LOWEST, HIGHEST = -87.0, 88.0
"""Exponents whose float32 power is a normal number; outside, the library takes a path a hundred times slower."""

SURE = 1e20
"""Sums of powers between 1 / SURE and SURE are exact: what the two limits cut off is below their last digit."""


def are_sure(sums: paddle.Tensor) -> bool:
    """Whether sums of `power_` (any shape) are exact to float32; False where one of them is NaN."""
    values = sums.numpy()
    return bool(values.min() > 1 / SURE and values.max() < SURE)


@functools.cache
def library() -> ctypes.CDLL | None:
    """MKL as Paddle's wheel carries it, or None."""
    path = Path(paddle.__file__).parent / "libs" / "libmklml_intel.so"
    if not path.exists():
        return None
    loaded = ctypes.CDLL(str(path))
    loaded.vsExp.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    return loaded


def serves(x: paddle.Tensor) -> bool:
    """Whether x is a float32 tensor of the CPU and the library is there."""
    return x.dtype == paddle.float32 and x.place.is_cpu_place() and library() is not None


def power_(x: paddle.Tensor) -> paddle.Tensor:
    """Replace x (any shape, `serves` it, contiguous) by e to the power of x held between LOWEST and HIGHEST.

    Nothing is recorded for a gradient: for use inside a PyLayer or without gradients.
    """
    x.clip_(LOWEST, HIGHEST)
    address = x.data_ptr()
    library().vsExp(x.size, address, address)
    return x


def sigmoid(x: paddle.Tensor) -> paddle.Tensor:
    """1 / (1 + e^-x), without a gradient of its own."""
    if not serves(x):
        return paddle.nn.functional.sigmoid(x)
    return power_(x.scale(-1.0)).scale_(1.0, 1.0).reciprocal_()
