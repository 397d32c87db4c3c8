# SPDX-License-Identifier: Apache-2.0
"""What a save that goes on beside training needs: copies that training cannot change, and a thread that writes them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path


class Scratch:
    """A file for an optimizer's state until it stands in its checkpoint: in the run's folder, or in memory.

    Memory is a file without a name (memfd), which goes with the process; where the system has none it is the folder.
    """

    def __init__(self, folder: Path, in_memory: bool = False) -> None:
        self._handle = os.memfd_create("r1_mllm-state") if in_memory and hasattr(os, "memfd_create") else None
        self.path = folder / ".optimizer.tmp"  # what a killed process leaves of it is swept away
        if self._handle is not None:
            self.path = Path(f"/proc/self/fd/{self._handle}")

    def move_to(self, target: Path) -> None:
        """Put the file where it belongs."""
        if self._handle is None:
            os.rename(self.path, target)
            return
        shutil.copyfile(self.path, target)
        self.close()

    def close(self) -> None:
        """Give the memory back."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class Writer:
    """Does one thing at a time on another thread; a process that ends in order waits for it."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._work: Future[str | None] | None = None

    def start(self, work: Callable[[], str | None]) -> None:
        """Begin; the work before must have been waited for."""
        assert self._work is None
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "r1-save")
        self._work = self._pool.submit(work)

    def wait(self) -> str | None:
        """Wait for the work, if there is any, and give what it gave; what it raised is raised."""
        work, self._work = self._work, None
        return work.result() if work is not None else None

    def close(self) -> None:
        """End the thread."""
        if self._pool is not None:
            self._pool.shutdown()
