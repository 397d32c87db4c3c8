# SPDX-License-Identifier: Apache-2.0
"""Places in saving and deleting where a test can end or halt the process: R1_FAULT=kill@POINT, or hang@POINT.

POINT:3 means the third time that it is reached.  Without the variable nothing happens.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

POINTS = (
    "save-start",
    "save-filled",
    "save-flushed",
    "save-sealed",
    "save-replaced",
    "save-renamed",
    "save-done",
    "purge-start",
    "purge-renamed",
    "purge-half",
    "purge-done",
    "json-staged",
)
"""save-: the hidden folder exists; its files are written; flushed; it has its manifest; an older folder of the same
name is gone; it has its own name; that name is flushed.  purge-: about to go; out of sight; one file deleted; gone.
json-staged: a small file (status.json, run.json) is written and not yet in its place."""

STEP, SCORE = "step", "score"
"""Further points, of the training loop: a step begins; its answers are about to be scored."""

_reached: Counter[str] = Counter()


def reach(point: str) -> None:
    """End (SIGKILL) or halt the process when R1_FAULT names this point."""
    wanted = os.environ.get("R1_FAULT")
    if not wanted:
        return
    action, _, rest = wanted.partition("@")
    name, _, number = rest.partition(":")
    if name != point:
        return
    _reached[point] += 1
    if _reached[point] != int(number or 1):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while action == "hang":
        time.sleep(3600)
