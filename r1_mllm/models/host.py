# SPDX-License-Identifier: Apache-2.0
"""The way from Paddle tensors of a CPU to compiled loops over their memory (loops.py).

Callers ask `serves` first and use Paddle's operators otherwise: on other devices, for other types, where numba is not
installed or Paddle was built without MKL.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import mmap
from types import ModuleType

import numpy as np
import paddle

from . import mkl


@functools.cache
def is_there() -> bool:
    """Whether numba is installed and Paddle carries MKL."""
    return importlib.util.find_spec("numba") is not None and mkl.library() is not None


@functools.cache
def loops() -> ModuleType:
    """The module of loops; imported when first needed, numba takes 0.15 s."""
    return importlib.import_module(".loops", __package__)


def serves(x: paddle.Tensor) -> bool:
    """Whether x is a float32 tensor of the CPU and everything is there to loop over it."""
    return is_there() and x.dtype == paddle.float32 and x.place.is_cpu_place()


class _Memory:
    """What numpy asks a foreign array for."""

    def __init__(self, tensor: paddle.Tensor, kind: str):
        place, shape = (tensor.data_ptr(), False), tuple(tensor.shape)
        self.__array_interface__ = {"data": place, "shape": shape, "typestr": kind, "version": 3}


def array(tensor: paddle.Tensor) -> np.ndarray:
    """Show a contiguous float32 CPU tensor's memory as an array; good as long as the tensor lives."""
    return np.asarray(_Memory(tensor, "<f4"))


def bits(tensor: paddle.Tensor, dtype: np.dtype) -> np.ndarray:
    """As `array`, for tensors whose numbers numpy knows as dtype (bfloat16: as the uint16 of its bits)."""
    return np.asarray(_Memory(tensor, dtype.str))


def arrays(*tensors: paddle.Tensor) -> list[np.ndarray]:
    """`array` of each."""
    return [array(tensor) for tensor in tensors]


HUGE_PAGE = 1 << 21
"""Bytes of a page that Linux offers for large memory."""


def prefer_huge_pages(address: int, size: int) -> None:
    """Ask Linux to back CPU memory of `size` bytes with pages of 2 MB: it is touched and read faster."""
    first = -(-address // HUGE_PAGE) * HUGE_PAGE
    length = (address + size - first) // HUGE_PAGE * HUGE_PAGE
    if length > 0 and hasattr(mmap, "MADV_HUGEPAGE"):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)  # may refuse
