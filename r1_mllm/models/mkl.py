# SPDX-License-Identifier: Apache-2.0
"""Products of parts of matrices where they stand, by the MKL inside Paddle's CPU wheels.

`cblas_sgemm` is reached through the C interface that Intel documents; where the library is missing (`library` gives
None) the callers use Paddle's operators.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path

import paddle


@functools.cache
def library() -> ctypes.CDLL | None:
    """MKL as Paddle's wheel carries it, or None."""
    path = Path(paddle.__file__).parent / "libs" / "libmklml_intel.so"
    if not path.exists():
        return None
    loaded = ctypes.CDLL(str(path))
    size, address, scalar = ctypes.c_int, ctypes.c_void_p, ctypes.c_float
    matrix = [address, size]
    loaded.cblas_sgemm.argtypes = [*[size] * 6, scalar, *matrix, *matrix, scalar, *matrix]
    return loaded


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
