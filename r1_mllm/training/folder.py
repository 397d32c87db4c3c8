# SPDX-License-Identifier: Apache-2.0
"""An output folder belongs to one process at a time, and an earlier run in it is moved aside, never deleted."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from pathlib import Path
from typing import TextIO

from ..runtime import OUTPUT, Stop


def take_lock(folder: Path) -> TextIO:
    """Lock the folder for this process, or refuse naming the process that holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise Stop(f"output_dir {folder} cannot be written: {error}", OUTPUT) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read().strip()
        lock.close()
        raise Stop(f"output_dir {folder} is in use by {owner or 'another process'}", OUTPUT) from None
    lock.seek(0)
    lock.truncate()
    lock.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
    lock.flush()
    return lock


def move_aside(folder: Path) -> None:
    """Move everything but the lock into OUTPUT_DIR.bak-<time>; nothing is deleted."""
    entries = [path for path in folder.iterdir() if path.name != ".lock"]
    if not entries:
        return
    stamp = time.strftime("%Y%m%d-%H%M%S")
    aside = folder.with_name(f"{folder.name}.bak-{stamp}")
    number = 1
    while aside.exists():
        number += 1
        aside = folder.with_name(f"{folder.name}.bak-{stamp}-{number}")
    aside.mkdir()
    for path in entries:
        os.rename(path, aside / path.name)
    print(f"the earlier run was moved to {aside}", file=sys.stderr)
