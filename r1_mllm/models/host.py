# SPDX-License-Identifier: Apache-2.0
"""The way from Paddle tensors of a CPU to compiled loops over their memory (loops.py).

Callers ask `serves` first and use Paddle's operators otherwise: on other devices, for other types, where numba is not
installed or Paddle was built without MKL.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
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

    def __init__(self, address: int, shape: list[int]):
        self.__array_interface__ = {"data": (address, False), "shape": tuple(shape), "typestr": "<f4", "version": 3}


def array(tensor: paddle.Tensor) -> np.ndarray:
    """Show a contiguous float32 CPU tensor's memory as an array; good as long as the tensor lives."""
    return np.asarray(_Memory(tensor.data_ptr(), tensor.shape))


def arrays(*tensors: paddle.Tensor) -> list[np.ndarray]:
    """`array` of each."""
    return [array(tensor) for tensor in tensors]
