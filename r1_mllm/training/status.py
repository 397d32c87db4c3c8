# SPDX-License-Identifier: Apache-2.0
"""OUTPUT_DIR/status.json: whether the run goes on, and how it ended.  A launcher's own exit code does not tell.

state   starting, running, done, stopped (by a signal, saved), aborted (by a second signal), failed, stalled
step    optimizer steps taken        exit    the process's exit code; null while it runs
reason  one sentence                 phase   what it was at        pid, host, time
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ..distributed import heartbeat
from ..runtime import DISK, STALLED, STOPPED, Stop
from . import durable

FILE = "status.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_folder: Path | None = None
"""The output folder this process may write status.json to: rank 0 holding its lock."""
_supervising = False
_stalled = False
"""Whether a stall has been told: what follows from it, such as a rank that is gone, does not replace it."""


def begin(folder: Path, rank: int, stall_timeout: float) -> None:
    """Take over status.json of a folder whose lock is held, and begin to watch; called on every rank.

    Outside `supervised` nothing happens: whoever opens a run by hand may leave it lying for as long as they like.
    """
    global _folder, _stalled
    if not _supervising:
        return
    _folder, _stalled = folder if rank == 0 else None, False

    def on_stall(reason: str) -> None:
        global _stalled
        write("stalled", STALLED, reason)
        _stalled = True
        print(f"r1-mllm: error: rank {rank}: {reason}", file=sys.stderr, flush=True)

    try:
        heartbeat.start(folder / "stacks" / f"rank{rank:03d}.txt", stall_timeout, on_stall)
    except OSError as error:
        print(f"warning: no watch for stalls: {error}", file=sys.stderr)
    write("starting")


def write(state: str, code: int | None = None, reason: str = "") -> None:
    """Replace status.json; a full disk does not stand in the way of what is reported."""
    if _folder is None or _stalled:
        return
    latest = heartbeat.latest
    record = {
        "state": state,
        "step": latest.step,
        "exit": code,
        "reason": reason,
        "phase": latest.phase,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    with contextlib.suppress(OSError):
        durable.write_json(_folder / FILE, record)


@contextlib.contextmanager
def supervised() -> Iterator[None]:
    """While the body trains, whatever ends it is written to status.json; a full disk becomes a `Stop`."""
    global _folder, _supervising
    _supervising = True
    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _stop_outside_steps) if main_thread else None
    try:
        yield
        write("done", 0)
    except Stop as stop:
        write("stopped" if stop.code == STOPPED else "failed", stop.code, str(stop))
        raise
    except OSError as error:
        if error.errno not in _FULL:
            write("failed", 1, f"{type(error).__name__}: {error}")
            raise
        write("failed", DISK, str(error))
        raise Stop(f"{error.filename or 'the output folder'} cannot be written: {error.strerror}", DISK) from error
    except BaseException as error:
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
        write("failed", code, f"{type(error).__name__}: {error}")
        raise
    finally:
        heartbeat.stop()
        _folder, _supervising = None, False
        if main_thread and signal.getsignal(signal.SIGTERM) is _stop_outside_steps:
            signal.signal(signal.SIGTERM, before)


def _stop_outside_steps(number: int, frame: object) -> None:
    """Answer SIGTERM while the model is loaded or exported; while steps are taken, signals.StopRequest does."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may be repeated on the way out
    raise Stop(f"stopped by signal {number} outside the steps; the same command continues", STOPPED)
