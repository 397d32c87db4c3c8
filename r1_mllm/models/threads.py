# SPDX-License-Identifier: Apache-2.0
"""Independent pieces of work on the threads of a CPU, each with a single-threaded BLAS.

Most of Paddle's CPU operators use one thread and let other Python threads run meanwhile.  Two packs side by side, one
thread each, therefore finish much sooner than one after the other with two threads inside every matrix product.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import paddle

from . import kernels, mkl

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_THREADS = 8
"""Each thread of a backward pass holds gradients of its own."""


def count() -> int:
    """How many pieces of work run at a time: OMP_NUM_THREADS on a CPU (runtime.py sets it), 1 on other devices."""
    if not kernels.on_cpu():
        return 1
    asked = os.environ.get("OMP_NUM_THREADS", "1")
    return min(int(asked), MAX_THREADS) if asked.isdigit() else 1


_here = threading.local()


def inside() -> bool:
    """Whether this is a thread of `run`: what it does is one of several pieces of work."""
    return getattr(_here, "inside", False)


def lanes(num_items: int) -> int:
    """How many of these pieces of work run at a time when started here: 1 on a thread of `run`."""
    return 1 if inside() else max(1, min(count(), num_items))


def _single_threaded_blas() -> None:
    """Keep this thread's matrix products on this thread; other threads' are left alone."""
    _here.inside = True
    if (blas := mkl.library()) is not None:
        blas.MKL_Set_Num_Threads_Local(1)


@functools.cache
def _pool(size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(size, thread_name_prefix="r1_mllm", initializer=_single_threaded_blas)


def run(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Apply function to every item, several at a time, or one after another on a thread of `run`; results in order,
    the first error raised.
    """
    if lanes(len(items)) < 2:
        return [function(item) for item in items]
    with_grad = paddle.is_grad_enabled()

    def work(item: Item) -> Result:
        with paddle.set_grad_enabled(with_grad):  # Paddle's switch is per thread
            return function(item)

    return list(_pool(count()).map(work, items))
