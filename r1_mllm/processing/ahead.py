# SPDX-License-Identifier: Apache-2.0
"""Prompts made ahead of time: pictures decoded and cut into patches on other threads while the model works.

Pillow and numpy let other threads run while they decode, resize and copy, so threads scale as processes would, without
sending the patches of a picture (7 MB for 640 x 480) from one process to another.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Ahead(Generic[Value]):
    """Calls make(key), on other threads where it was told early enough.

    Args:
        make: called once per key asked for; what it raises, `take` raises.
        num_workers: threads; 0 makes everything when it is taken.
    """

    def __init__(self, make: Callable[[Hashable], Value], num_workers: int) -> None:
        self._make = make
        self._pool = ThreadPoolExecutor(num_workers, "r1_mllm_ahead") if num_workers > 0 else None
        self._waiting: dict[Hashable, Future] = {}

    def prepare(self, keys: Sequence[Hashable]) -> None:
        """Start on what will be taken next; what waits from earlier calls and is not among it is dropped."""
        if self._pool is None:
            return
        for key in self._waiting.keys() - set(keys):
            self._waiting.pop(key).cancel()
        self._start(keys)

    def _start(self, keys: Sequence[Hashable]) -> None:
        for key in keys if self._pool else ():
            if key not in self._waiting:
                self._waiting[key] = self._pool.submit(self._make, key)

    def take(self, keys: Sequence[Hashable]) -> list[Value]:
        """Give the values of keys in order; equal keys are made once."""
        self._start(keys)
        made = {key: self._waiting.pop(key).result() if key in self._waiting else self._make(key) for key in set(keys)}
        return [made[key] for key in keys]

    def close(self) -> None:
        """Stop the threads; nothing can be taken afterwards."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
