# SPDX-License-Identifier: Apache-2.0
"""What Paddle's CPU wheels carry and its operators leave unused: MKL's exponential, and products of column windows.

`vsExp` takes all threads and is about eight times as fast as `paddle.exp` or a softmax.  `cblas_sgemm` multiplies parts
of a matrix where they stand.  Both are reached through the C interface that Intel documents; where the library is
missing the public operators serve.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
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
    size, address, scalar = ctypes.c_int, ctypes.c_void_p, ctypes.c_float
    loaded.vsExp.argtypes = [size, address, address]
    matrix = [address, size]
    loaded.cblas_sgemm.argtypes = [*[size] * 6, scalar, *matrix, *matrix, scalar, *matrix]
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
    """1 / (1 + e^-x), without a gradient of its own; x as `serves` wants it."""
    powers = x.scale(-1.0)
    address = powers.data_ptr()
    library().vsExp(powers.size, address, address)  # what overflows becomes 1 / infinity, as it should
    return powers.scale_(1.0, 1.0).reciprocal_()


@dataclass(frozen=True)
class Window:
    """Columns first to first + width of a contiguous float32 matrix."""

    matrix: paddle.Tensor
    first: int
    width: int

    @property
    def address(self) -> int:
        """Of its first element."""
        return self.matrix.data_ptr() + 4 * self.first


def whole(matrix: paddle.Tensor) -> Window:
    """All columns of a matrix [N, M]."""
    return Window(matrix, 0, matrix.shape[1])


_ROW_MAJOR, _PLAIN, _TRANSPOSED = 101, 111, 112


def product(
    left: Window, right: Window, out: Window, transpose_x: bool = False, transpose_y: bool = False, add: bool = False
) -> None:
    """Write left @ right into out, or add it to what stands there; shapes as in paddle.matmul."""
    rows, inner = (left.width, left.matrix.shape[0]) if transpose_x else (left.matrix.shape[0], left.width)
    library().cblas_sgemm(
        _ROW_MAJOR,
        _TRANSPOSED if transpose_x else _PLAIN,
        _TRANSPOSED if transpose_y else _PLAIN,
        *(rows, out.width, inner, 1.0),
        *(left.address, left.matrix.shape[1], right.address, right.matrix.shape[1], 1.0 if add else 0.0),
        *(out.address, out.matrix.shape[1]),
    )


def plain_product(shape: tuple[int, int, int], left: int, right: int, out: int, old: float) -> tuple:
    """Spell out = left [N, C] @ right [C, M] + old * out, all contiguous and given by address, for cblas_sgemm.

    Args:
        shape: N, M, C.
    """
    rows, width, inner = shape
    return (
        *(_ROW_MAJOR, _PLAIN, _PLAIN, rows, width, inner),
        *(1.0, left, inner, right, width, old, out, width),
    )
