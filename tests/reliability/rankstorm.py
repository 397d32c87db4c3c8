# SPDX-License-Identifier: Apache-2.0
"""Kill a rank again and again: `python tests/reliability/rankstorm.py --kills N [--steps S] [--seed K]`.

A run of two processes under Paddle's launcher (gloo) loses a random one of them (SIGKILL) at a random moment.  The
launcher must end with a code other than 0 within 10 s and leave no process behind; the same command is given again
until the run is done; then the next begins, until N kills are spent.  Each finished run must equal a run of two
processes that was left alone: weights, optimizer state, every completion and its reward.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import killstorm

RANKS = 2
EXIT_SECONDS = 10.0
"""The launcher must be gone so soon after one of its ranks."""
GONE_SECONDS = 3.0
"""The kernel takes a moment to end what a process leaves behind."""
PROBLEMS = ("unequal", "damaged", "failed", "late", "unnoticed", "left behind")

Process = tuple[int, str]
"""Process id, and when it started: an id alone may come again."""


def launcher(words: list[str], logs: Path) -> list[str]:
    """The command line that starts `words` once per rank."""
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(RANKS), "--run_mode", "collective"]
    return [sys.executable, *launch, "--log_dir", str(logs), *words]


def table() -> dict[Process, tuple[int, int]]:
    """Every process that runs (zombies do not) -> (its parent's id, its session)."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = killstorm.stat(name)
        except OSError:
            continue
        if fields[0] != "Z":
            found[int(name), fields[19]] = (int(fields[1]), int(fields[3]))
    return found


def below(root: int) -> list[Process]:
    """Processes that `root` started, and those that they started, in order of their ids."""
    processes, known, found = table(), {root}, []
    grown = True
    while grown:
        new = [one for one, (parent, _) in processes.items() if parent in known and one[0] not in known]
        known.update(number for number, _ in new)
        found += new
        grown = bool(new)
    return sorted(found)


def ranks_of(root: int) -> list[Process]:
    """The launcher's own children."""
    processes = table()
    return sorted(one for one, (parent, _) in processes.items() if parent == root)


def left_behind(tree: list[Process], session: int) -> list[Process]:
    """Of a launcher's processes those that are still there a moment after it."""
    deadline = time.monotonic() + GONE_SECONDS
    while True:
        processes = table()
        left = [one for one in processes if one in tree or processes[one][1] == session]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


def wait_for_ranks(process: subprocess.Popen) -> list[Process]:
    """Wait until the launcher has started all ranks; none when it ended before."""
    while process.poll() is None:
        if len(found := ranks_of(process.pid)) >= RANKS:
            return found
        time.sleep(0.05)
    return []


def kill_one(process: subprocess.Popen, rng: random.Random, told: dict[str, float]) -> bool:
    """Kill a random rank of a running launcher and note what becomes of the others; False: all have ended."""
    tree, alive = below(process.pid), ranks_of(process.pid)
    if not alive:
        return False
    killstorm.started.extend(number for number, _ in tree)
    try:
        os.kill(rng.choice(alive)[0], signal.SIGKILL)
    except ProcessLookupError:
        return False
    begun = time.monotonic()
    try:
        code = process.wait(6 * EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    seconds = time.monotonic() - begun
    told["kills"] += 1
    told["slowest exit"] = max(told["slowest exit"], round(seconds, 1))
    told["late"] += seconds > EXIT_SECONDS
    told["unnoticed"] += code == 0
    told["left behind"] += len(left_behind(tree, process.pid))
    print(f"kill {told['kills']}: code {code} after {seconds:.1f} s", file=sys.stderr, flush=True)
    return True


def finish(words: list[str], folder: Path, span: float, rng: random.Random, told: dict[str, float], kills: int) -> int:
    """Start a run again and again, a rank of it killed each time while kills are left; the last exit code."""
    while True:
        process = killstorm.start(launcher(words, folder.with_suffix(".log")))
        if told["kills"] >= kills or not wait_for_ranks(process):
            return process.wait()
        try:
            return process.wait(rng.uniform(0.2, 1.3) * span)
        except subprocess.TimeoutExpired:
            if not kill_one(process, rng, told):
                return process.wait()
        told["damaged"] += bool(folder.is_dir() and killstorm.sound(folder))


def storm(kills: int, steps: int, seed: int, root: Path) -> dict[str, float]:
    """Spend the kills; counts of kills, finished runs and whatever was wrong, and the slowest end in seconds."""
    rng = random.Random(seed)
    train, reward = killstorm.prepare(root)
    begun = time.monotonic()
    reference = root / "reference"
    process = killstorm.start(launcher(killstorm.command(train, reward, reference, steps), root / "reference.log"))
    assert process.wait() == 0, (root / "reference.log" / "workerlog.0").read_text()
    span = time.monotonic() - begun
    expected = killstorm.content(reference, steps)
    told: dict[str, float] = dict.fromkeys(("kills", "runs", "slowest exit", *PROBLEMS), 0)
    while told["kills"] < kills:
        folder = root / f"run-{told['runs']}"
        before, begun = told["kills"], time.monotonic()
        code = finish(killstorm.command(train, reward, folder, steps), folder, span, rng, told, kills)
        if told["kills"] == before:  # the kill came too late: the reference was slower, on a busy machine
            span = min(span, time.monotonic() - begun)
        told["failed"] += code != 0
        told["runs"] += 1
        told["unequal"] += code != 0 or bool(killstorm.differing(folder, steps, expected))
    told["left behind"] += len(killstorm.orphans())
    return told


if __name__ == "__main__":
    raise SystemExit(killstorm.conduct(__doc__, storm, PROBLEMS, kills=50, steps=12, seed=0))
