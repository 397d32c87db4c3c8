# SPDX-License-Identifier: Apache-2.0
"""Threads that run one compiled function together and meet at barriers inside it.

A decode step has five meeting points a layer, a few microseconds apart: too often for Python, or for handing out pieces
of work.  Helpers therefore wait by looking at a counter, for as long as the next step may soon come, then asleep.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import queue
import threading
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from . import threads
from .loops import EXACT, loop

WORD = ir.IntType(64)

STARTED, ARRIVED = 0, 8
"""Places of the two counters; each has a cache line to itself."""

SPINS, YIELDS = 1000, 200
"""Looks at a counter before the processor is offered to others at each, and offers before a helper goes to sleep."""

_yield = types.ExternalFunction("sched_yield", types.int32())


@intrinsic
def _added(typing_context, address, number):
    """Add to the int64 at an address as one operation; gives what stood there."""

    def generate(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], WORD.as_pointer())
        return builder.atomic_rmw("add", place, arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _seen(typing_context, address):
    """Read the int64 at an address as others left it."""

    def generate(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], WORD.as_pointer())
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def _pause(typing_context):
    """Tell the processor that this is a waiting loop."""

    def generate(context, builder, signature, arguments):
        if platform.machine() in ("x86_64", "AMD64"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


@njit(**EXACT)
def barrier(control, team):
    """Wait until all threads of a team have come here; control is the crew's counters."""
    if team == 1:
        return
    arrived = control.ctypes.data + 8 * ARRIVED
    target = (_added(arrived, 1) // team + 1) * team
    spins = 0
    while _seen(arrived) < target:
        spins += 1
        if spins < SPINS:
            _pause()
        else:
            _yield()


@loop
def _wait(control, known):
    """Wait a while for a start after start number `known`; whether there was one."""
    started = control.ctypes.data + 8 * STARTED
    for spins in range(SPINS + YIELDS):
        if _seen(started) != known:
            return True
        if spins < SPINS:
            _pause()
        else:
            _yield()
    return False


class Crew:
    """The caller's thread and size - 1 helpers."""

    def __init__(self, size: int):
        self.size, self.control = size, np.zeros(16, np.int64)
        self._job: tuple[Callable, tuple] | None = None
        self._busy = threading.Lock()
        self._asleep: list[queue.SimpleQueue] = []
        for thread in range(1, size):
            threading.Thread(target=self._help, args=[thread], name=f"r1_mllm crew {thread}", daemon=True).start()

    def run(self, function: Callable, *arguments) -> None:
        """Call function(thread, team, control, *arguments) on every thread; it ends with a barrier.

        It runs on one thread while it is not compiled yet, on threads of `threads.run`, which have a core each, and
        while another caller's is under way.
        """
        alone = self.size == 1 or threads.inside() or not function.signatures
        if alone or not self._busy.acquire(blocking=False):
            function(0, 1, self.control, *arguments)
            return
        try:
            self._job = function, arguments
            self.control[STARTED] += 1
            with contextlib.suppress(IndexError):
                while True:
                    self._asleep.pop().put(None)
            function(0, self.size, self.control, *arguments)
        finally:
            self._job = None  # it holds weights and caches
            self._busy.release()

    def _help(self, thread: int) -> None:
        known, awake = 0, queue.SimpleQueue()
        while True:
            while not _wait(self.control, known):
                self._asleep.append(awake)  # before the look at the counter, which `run` raises before it looks here
                if self.control[STARTED] != known and self._withdrawn(awake):
                    break
                awake.get()
            known += 1
            function, arguments = self._job
            function(thread, self.size, self.control, *arguments)
            del function, arguments

    def _withdrawn(self, awake: queue.SimpleQueue) -> bool:
        """Take a helper from the list of those asleep, unless it is being woken already."""
        try:
            self._asleep.remove(awake)
        except ValueError:
            return False
        return True


@functools.cache
def _crew(process: int, size: int) -> Crew:
    return Crew(size)


def crew() -> Crew:
    """The process's crew, of as many threads as `threads.count` says."""
    return _crew(os.getpid(), threads.count())
