# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and SIGINT ask for an end between two steps; a second one a few seconds later ends at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import TracebackType

from . import status

PATIENCE_SECONDS = 5.0
"""Launchers repeat a signal within moments; only a later one means "now"."""


class StopRequest:
    """While entered, remembers that somebody asked the process to stop."""

    def __init__(self) -> None:
        self.asked = False
        self._since = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            # A launcher repeats its signal while the process, which has saved, is on its way out.
            signal.signal(number, signal.SIG_IGN if self.asked else handler)

    def _note(self, number: int, frame: object) -> None:
        if self.asked and time.monotonic() - self._since > PATIENCE_SECONDS:
            status.write("aborted", 128 + number, f"a second signal {number}, {PATIENCE_SECONDS:g} s after the first")
            os._exit(128 + number)  # checkpoints are whole or absent at any moment; nothing needs to be put away
        if not self.asked:
            self._since = time.monotonic()
        self.asked = True
