# SPDX-License-Identifier: Apache-2.0
"""Signs of life, and a watch that ends a process which gives none: stacks to a file, exit code 78.

Two watches run: a thread of ours, which can say why and leave status.json, and, for hangs that keep the interpreter's
lock, faulthandler's own timer, which needs no lock, writes the same stacks 5 s later and ends with code 1.

The processes of a run see each other through the files their stacks go to, in one folder: a file's time says when its
process moved last, and stacks in it that it has stalled.  So a process that waits in an exchange is not stalled while
another one moves, and when one is stalled all of them write their stacks and end.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..runtime import STALLED

FIRST_STEP_FACTOR = 3
"""Until the first step is done (loading, compiling, the evaluation before training) patience is longer by this."""
BACKSTOP_SECONDS = 5.0
PEER_SECONDS = 12.0
"""A stalled process stays for so long at most, until every other one has written its stacks."""


@dataclass
class Beat:
    """What the process did last."""

    phase: str = "starting"
    step: int = 0
    first: bool = True
    """No step has been finished in this process."""
    at: float = 0.0
    """time.monotonic() seconds."""
    waiting: bool = False
    """For other processes."""


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
    if watch is not None:
        watch.saw_movement(latest.at)


def alive() -> None:
    """Say that the process is still at what it began last."""
    beat(latest.phase)


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """While entered, the process waits for others, and is not stalled as long as one of them moves."""
    before, latest.waiting = latest.waiting, True
    try:
        yield
    finally:
        latest.waiting = before
        alive()


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
        self._peers = Peers(file)
        self._shown = 0.0
        self._ended = threading.Event()
        self.arm()
        self._thread = threading.Thread(target=self._watch, name="r1-watch", daemon=True)
        self._thread.start()

    @property
    def patience(self) -> float:
        """Seconds without a beat that are too many now."""
        return self.seconds * (FIRST_STEP_FACTOR if latest.first else 1)

    @property
    def pause(self) -> float:
        """Seconds between two looks."""
        return min(1.0, self.seconds / 10)

    def saw_movement(self, at: float) -> None:
        """Wind the timer anew where it would end too early, or was wound for more patience than there is now."""
        if at - self.armed > self.pause or self.patience < self.armed_for:
            self.arm()

    def arm(self) -> None:
        """Wind the timer that needs no interpreter."""
        self.armed, self.armed_for = time.monotonic(), self.patience
        faulthandler.dump_traceback_later(self.armed_for + BACKSTOP_SECONDS, exit=True, file=self._file)

    def close(self) -> None:
        """End both watches."""
        faulthandler.cancel_dump_traceback_later()
        self._ended.set()
        self._thread.join()
        self._file.close()
        if self.path.exists() and not self.path.stat().st_size:
            self.path.unlink()

    def _watch(self) -> None:
        while not self._ended.wait(self.pause):
            self._show()
            if told := self._peers.look():
                self._end(told)
            moved = max(latest.at, self._peers.moved) if latest.waiting else latest.at
            silent = time.monotonic() - moved
            if silent > self.patience:
                where = f"in {latest.phase} after step {latest.step}; stacks in {self.path}"
                self._end(f"nothing moved for {silent:.0f} s {where}")
            self.saw_movement(moved)

    def _show(self) -> None:
        """Let the other processes see when this one moved."""
        if latest.at > self._shown:
            self._shown = latest.at
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def _end(self, reason: str) -> None:
        faulthandler.dump_traceback_later(PEER_SECONDS + BACKSTOP_SECONDS, exit=True, file=self._file)
        try:
            self._file.write(reason + "\n")
            self._file.flush()
            faulthandler.dump_traceback(self._file, all_threads=True)
            self.on_stall(reason)
            self._peers.wait()
        finally:
            os._exit(STALLED)  # whatever hangs would also hang an orderly end; workers die with their parent


class Peers:
    """What the files beside a process's own tell of the other processes of its run."""

    def __init__(self, own: Path) -> None:
        self._own, self._times = own, {}
        self._began = own.stat().st_mtime_ns  # of the file system's clock, as the others' are
        self.moved = 0.0
        """time.monotonic() seconds at which another process was last seen to have moved."""

    def look(self) -> str | None:
        """See who has moved; why a process has ended that stalled since this one began to watch."""
        for path, stat in self._files():
            if not stat.st_size:
                if self._times.get(path, stat.st_mtime_ns) != stat.st_mtime_ns:
                    self.moved = time.monotonic()
                self._times[path] = stat.st_mtime_ns
            elif stat.st_mtime_ns > self._began:
                return f"{path.stem}: {path.read_text(encoding='utf-8', errors='replace').partition(chr(10))[0]}"
        return None

    def wait(self) -> None:
        """Wait until all have written their stacks, or ended."""
        deadline = time.monotonic() + PEER_SECONDS
        while time.monotonic() < deadline and any(not stat.st_size for _, stat in self._files()):
            time.sleep(0.05)

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in sorted(self._own.parent.glob("rank*.txt")):
            with contextlib.suppress(OSError):  # it may go at any moment
                if path != self._own:
                    yield path, path.stat()
