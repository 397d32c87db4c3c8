# SPDX-License-Identifier: Apache-2.0
"""Watch one undisturbed run for leaks: `python tests/reliability/endurance.py MINUTES [--samples FILE] [--every S]`.

The toy run of killstorm.py trains until the time is over; memory, open files, threads and children are read from /proc
and written to FILE (one JSON object a line).  Then it gets SIGTERM, and has to save and leave nothing behind.  Slopes
are least squares over the samples after the first tenth of the time, at most ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import killstorm

SHARED = Path("/dev/shm")
LIMIT = 5.0
"""MiB per hour that a run may grow by."""


def children(pid: int) -> list[int]:
    """Process ids of all threads' children."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for path in lists for word in path.read_text().split()]


def sample(pid: int, folder: Path, begun: float) -> dict[str, float]:
    """One reading: seconds, steps, MiB of the run and of its children, counts of files, threads and children."""
    below = children(pid)
    return {
        "seconds": round(time.monotonic() - begun, 1),
        "step": killstorm.logged(folder),
        "mib": round(killstorm.resident_kb(pid) / 1024, 2),
        "children_mib": round(sum(map(killstorm.resident_kb, below)) / 1024, 2),
        "files": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": len(os.listdir(f"/proc/{pid}/task")),
        "children": len(below),
    }


def watch(process: subprocess.Popen, folder: Path, minutes: float, every: float, target: Path) -> list[dict]:
    """Readings until the time is over or the run has ended; each is also a line of the target file."""
    begun, readings = time.monotonic(), []
    with target.open("w", encoding="utf-8") as lines:
        while process.poll() is None and time.monotonic() - begun < 60 * minutes:
            time.sleep(every)
            if process.poll() is None:
                readings.append(sample(process.pid, folder, begun))
                print(json.dumps(readings[-1]), file=lines, flush=True)
    return readings


def slope(readings: list[dict], name: str) -> float:
    """Growth of a reading per hour, by least squares."""
    hours = [reading["seconds"] / 3600 for reading in readings]
    return float(np.polyfit(hours, [reading[name] for reading in readings], 1)[0])


def endure(minutes: float, every: float, target: Path, root: Path) -> dict[str, object]:
    """Run, stop, and say what the readings show."""
    before = set(os.listdir(SHARED))
    train, reward = killstorm.prepare(root)
    words = killstorm.command(
        train, reward, root / "run", 10**6, save_steps=50, learning_rate="1e-6", save_total_limit=3, stall_timeout=900
    )
    log = root / "errors.txt"
    with log.open("wb") as errors:  # nobody reads a pipe for two hours
        process = killstorm.start(words, errors)
    readings = watch(process, root / "run", minutes, every, target)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.wait()
    settled = [reading for reading in readings if reading["seconds"] >= min(600, 6 * minutes)]
    assert len(settled) > 2, f"only {len(settled)} readings; exit {process.returncode}: {log.read_text()[-2000:]}"
    time.sleep(1.0)
    counts = {name: sorted({reading[name] for reading in settled}) for name in ("files", "threads", "children")}
    return {
        "minutes": round(readings[-1]["seconds"] / 60, 1),
        "steps": readings[-1]["step"],
        "exit": process.returncode,
        "mib": [settled[0]["mib"], settled[-1]["mib"]],
        "mib_per_hour": round(slope(settled, "mib"), 2),
        "children_mib_per_hour": round(slope(settled, "children_mib"), 2),
        **counts,
        "damaged": killstorm.sound(root / "run"),
        "orphans": len(killstorm.orphans()),
        "shared_files_left": sorted(set(os.listdir(SHARED)) - before),
        "unfinished_files_left": [path.name for path in (root / "run").glob(".tmp-*")],
    }


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float)
    parser.add_argument("--samples", type=Path, default=Path("endurance.jsonl"))
    parser.add_argument("--every", type=float, default=30.0, help="seconds between readings")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = endure(given.minutes, given.every, given.samples, Path(folder))
    for name, value in told.items():
        print(f"{name}: {value}")
    grown = max(told["mib_per_hour"], told["children_mib_per_hour"]) >= LIMIT
    left = told["damaged"] or told["orphans"] or told["shared_files_left"] or told["unfinished_files_left"]
    return int(bool(grown or left or told["exit"] != 75))


if __name__ == "__main__":
    raise SystemExit(main())
