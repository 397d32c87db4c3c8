# SPDX-License-Identifier: Apache-2.0
"""Products of parts of matrices where they stand, and of packed weights, by the MKL inside Paddle's CPU wheels.

`cblas_sgemm` and its relatives are reached through the C interface that Intel documents; where the library is missing
(`library` gives None) the callers use Paddle's operators.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
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
    loaded.cblas_sgemm_pack_get_size.argtypes, loaded.cblas_sgemm_pack_get_size.restype = [size] * 4, ctypes.c_size_t
    loaded.cblas_sgemm_pack.argtypes = [*[size] * 6, scalar, *matrix, address]
    loaded.cblas_sgemm_compute.argtypes = [*[size] * 6, *matrix, *matrix, scalar, *matrix]
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


_ROW_MAJOR, _PLAIN, _TRANSPOSED, _PACKED, _RIGHT = 101, 111, 112, 151, 162


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


PACK_LIMIT = 1 << 28
"""Weights of up to so many bytes are packed; larger ones are read from memory at its own speed, packed or not."""


_spare: dict[int, list[np.ndarray]] = defaultdict(list)
"""Memory of packed weights that are gone, by size: every rollout packs the same ones, and given back to the allocator
it would be cut up in between."""


def _take(num_floats: int) -> np.ndarray:
    return _spare[num_floats].pop() if _spare[num_floats] else np.empty(num_floats, np.float32)


class Factor:
    """A weight that many small matrices are multiplied with, packed in the order in which MKL reads it.

    A product of 8 rows takes half the time it takes with the weight as it stands, and packing the time of two.
    """

    def __init__(self, weight: paddle.Tensor, transposed: bool = False):
        """Take the numbers of weight [C, M] (transposed: [M, C]) as they are now."""
        self.inner, self.width = reversed(weight.shape) if transposed else weight.shape
        rows = 64  # what the packing is tuned for; any number of rows may follow
        blas, size = library(), (rows, self.width, self.inner)
        memory = _take(-(-blas.cblas_sgemm_pack_get_size(_RIGHT, *size) // 4) + 16)
        weakref.finalize(self, _spare[memory.size].append, memory)
        self._address = -(-memory.ctypes.data // 64) * 64
        order = _TRANSPOSED if transposed else _PLAIN
        blas.cblas_sgemm_pack(
            *(_ROW_MAJOR, _RIGHT, order, *size, 1.0, weight.data_ptr(), weight.shape[1], self._address)
        )

    def prepared(self, x: np.ndarray, out: np.ndarray, add: bool) -> Callable[[], None]:
        """Give a function that writes x @ weight into out, or adds it: arrays [N, C] and [N, M] that stay in place."""
        arguments = (
            *(_ROW_MAJOR, _PLAIN, _PACKED, len(x), self.width, self.inner, x.ctypes.data, self.inner),
            *(self._address, self.width, 1.0 if add else 0.0, out.ctypes.data, self.width),
        )
        return _prepared(library().cblas_sgemm_compute, arguments, (self, x, out))


class PlainFactor:
    """As Factor, but the weight is used where it stands."""

    def __init__(self, weight: paddle.Tensor, transposed: bool = False):
        self.inner, self.width = reversed(weight.shape) if transposed else weight.shape
        self.weight, self.order = weight, _TRANSPOSED if transposed else _PLAIN

    def prepared(self, x: np.ndarray, out: np.ndarray, add: bool) -> Callable[[], None]:
        """As Factor.prepared."""
        arguments = (
            *(_ROW_MAJOR, _PLAIN, self.order, len(x), self.width, self.inner, 1.0, x.ctypes.data, self.inner),
            *(self.weight.data_ptr(), self.weight.shape[1], 1.0 if add else 0.0, out.ctypes.data, self.width),
        )
        return _prepared(library().cblas_sgemm, arguments, (self, x, out))


def _prepared(function: Callable, arguments: tuple, kept: tuple) -> Callable[[], None]:
    """Bind arguments and keep what their addresses point to alive."""
    for array in kept[1:]:
        assert array.dtype == np.float32 and array.flags.c_contiguous

    def run(kept=kept) -> None:
        function(*arguments)

    return run


def factor(weight: paddle.Tensor, transposed: bool = False) -> Factor | PlainFactor:
    """Make the factor of a weight [C, M] (transposed: [M, C]): packed unless it is large."""
    kind = Factor if 4 * weight.shape[0] * weight.shape[1] <= PACK_LIMIT else PlainFactor
    return kind(weight, transposed)
