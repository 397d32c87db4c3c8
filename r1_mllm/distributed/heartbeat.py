# SPDX-License-Identifier: Apache-2.0
"""Signs of life, and a watch that ends a process which gives none: stacks to a file, exit code 78.

Two watches run: a thread of ours, which can say why and leave status.json, and, for hangs that keep the interpreter's
lock, faulthandler's own timer, which needs no lock, writes the same stacks 15 s later and ends with code 1.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..runtime import STALLED

FIRST_STEP_FACTOR = 3
"""Until the first step is done (loading, compiling, the evaluation before training) patience is longer by this."""
BACKSTOP_SECONDS = 15.0


@dataclass
class Beat:
    """What the process did last."""

    phase: str = "starting"
    step: int = 0
    first: bool = True
    """No step has been finished in this process."""
    at: float = 0.0
    """time.monotonic() seconds."""


latest = Beat()
_watch: Watch | None = None


def beat(phase: str, step: int | None = None) -> None:
    """Say that the process is alive and what it begins now.

    Args:
        step: optimizer steps taken so far; None: as before.
    """
    if step is not None:
        latest.step = step
    latest.phase, latest.at = phase, time.monotonic()
    watch = _watch
    if watch is not None and latest.at - watch.armed > min(1.0, watch.seconds / 10):
        watch.arm()


def finished(step: int) -> None:
    """Say that a step was finished: from now on patience is the usual one."""
    latest.first = False
    beat("between steps", step)


def start(file: Path, seconds: float, on_stall: Callable[[str], None]) -> None:
    """Begin to watch this process; a watch that runs already is replaced.

    Args:
        file: where the stacks go; made at once, removed by `stop` when nothing was written.
        seconds: patience; 0 or less: none is kept.
        on_stall: called with one sentence before the process ends; its errors do not keep it from ending.
    """
    global _watch
    stop()
    latest.__dict__.update(Beat(at=time.monotonic()).__dict__)
    if seconds > 0:
        _watch = Watch(file, seconds, on_stall)


def stop() -> None:
    """Watch no longer."""
    global _watch
    watch, _watch = _watch, None
    if watch is not None:
        watch.close()


class Watch:
    """A running watch; see `start`."""

    def __init__(self, file: Path, seconds: float, on_stall: Callable[[str], None]) -> None:
        self.path, self.seconds, self.on_stall = file, seconds, on_stall
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file.open("w", encoding="utf-8")
        self._ended = threading.Event()
        self.arm()
        self._thread = threading.Thread(target=self._watch, name="r1-watch", daemon=True)
        self._thread.start()

    @property
    def patience(self) -> float:
        """Seconds without a beat that are too many now."""
        return self.seconds * (FIRST_STEP_FACTOR if latest.first else 1)

    def arm(self) -> None:
        """Wind the timer that needs no interpreter."""
        self.armed = time.monotonic()
        faulthandler.dump_traceback_later(self.patience + BACKSTOP_SECONDS, exit=True, file=self._file)

    def close(self) -> None:
        """End both watches."""
        faulthandler.cancel_dump_traceback_later()
        self._ended.set()
        self._thread.join()
        self._file.close()
        if self.path.exists() and not self.path.stat().st_size:
            self.path.unlink()

    def _watch(self) -> None:
        pause = min(1.0, self.seconds / 10)
        while not self._ended.wait(pause):
            silent = time.monotonic() - latest.at
            if silent > self.patience:
                self._end(silent)

    def _end(self, silent: float) -> None:
        reason = f"nothing moved for {silent:.0f} s in {latest.phase} after step {latest.step}; stacks in {self.path}"
        try:
            self._file.write(reason + "\n")
            self._file.flush()
            faulthandler.dump_traceback(self._file, all_threads=True)
            self.on_stall(reason)
        finally:
            os._exit(STALLED)  # whatever hangs would also hang an orderly end; workers die with their parent
