# SPDX-License-Identifier: Apache-2.0
"""Kill a run again and again: `python tests/reliability/killstorm.py --kills N [--steps S] [--seed K]`.

A run of S steps is killed (SIGKILL) at random moments and started again with the same command until it is done; then
the next begins, until N kills are spent.  Each finished run must equal one that was left alone: weights, optimizer
state, every completion and its reward.  After every kill the newest checkpoint must be whole and no process left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import IO

from r1_mllm import runtime

runtime.prepare()
ROOT = Path(__file__).resolve().parents[2]
REWARD = "def vowels(group):\n    return [sum(c in 'aeiou' for c in d.text) for d in group.completions]\n"
UNTIMED = ("reward", "loss", "grad_norm", "kl", "completions/mean_length", "num_tokens", "learning_rate")


started: list[int] = []
"""Process ids of all runs so far."""


def prepare(folder: Path) -> tuple[Path, Path]:
    """Write scenes and a reward file; returns both paths."""
    from r1_mllm.data.synthetic import write_splits

    train, _ = write_splits("counting", 20, folder / "scenes", num_test=3, seed=1)
    reward = folder / "reward.py"
    reward.write_text(REWARD)
    return train, reward


def command(train: Path, reward: Path, out: Path, steps: int, **flags: object) -> list[str]:
    """The run's command line."""
    settings = {
        "model_name_or_path": ROOT / "tests/golden/cases/e2e/checkpoint",
        "task": "counting",
        "dataset_name": train,
        "output_dir": out,
        "max_steps": steps,
        "save_steps": 2,
        "num_generations": 3,
        "max_completion_length": 8,
        "report_to": "none",
        "learning_rate": "1e-3",
        "reward_funcs": f"{reward}:vowels",
        "reward_timeout": 1800,  # a machine that stops all processes for minutes is none of the faults looked for
        "stall_timeout": 3600,
    } | flags
    return [sys.executable, "-m", "r1_mllm", "grpo", *(f"--{name}={value}" for name, value in settings.items())]


def start(words: list[str], errors: IO | int = subprocess.PIPE, **environment: str) -> subprocess.Popen:
    """Start a run in a session of its own; errors is where its standard error goes."""
    process = subprocess.Popen(
        words,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
    )
    started.append(process.pid)
    return process


def content(folder: Path, steps: int) -> dict[str, object]:
    """What must be equal of two finished runs."""
    last = folder / f"checkpoint-{steps}"
    rows = [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]
    numbers = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    numbers = [{name: line.get(name) for name in ("step", *UNTIMED)} for line in numbers if "loss" in line]
    return {
        "weights": (last / "model.safetensors").read_bytes(),
        "optimizer": (last / "state" / "optimizer.safetensors").read_bytes(),
        "completions": rows,
        "metrics": numbers,
    }


def sound(folder: Path, but: Collection[int] = ()) -> str | None:
    """Say which checkpoint under its own name is damaged, except folders of those inodes; None when none is."""
    from r1_mllm.training import checkpoint, durable

    paths = [path for _, path in checkpoint.checkpoints(folder) if path.stat().st_ino not in but]
    problems = [durable.damage(path) for path in paths]
    return next((problem for problem in problems if problem), None)


def orphans() -> list[int]:
    """Workers of the runs that were started here whose parent is gone."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes()
            parent = Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()[1]
        except OSError:
            continue
        mine = any(str(pid).encode() in words.split(b"\0") for pid in started)
        if b"reward_worker.py" in words and parent == "1" and mine:
            found.append(int(name))
    return found


def storm(kills: int, steps: int, seed: int, seconds: float, root: Path) -> dict[str, int]:
    """Spend the kills (or the seconds); counts of kills, finished runs and whatever was wrong."""
    rng = random.Random(seed)
    train, reward = prepare(root)
    begun = time.monotonic()
    reference = root / "reference"
    process = start(command(train, reward, reference, steps))
    assert process.wait() == 0, process.stderr.read().decode()
    alone = time.monotonic() - begun
    expected = content(reference, steps)
    told = {"kills": 0, "runs": 0, "unequal": 0, "damaged": 0, "failed": 0, "orphans": 0}
    while told["kills"] < kills and time.monotonic() - begun < seconds:
        folder = root / f"run-{told['runs']}"
        while True:
            process = start(command(train, reward, folder, steps))
            last = told["kills"] >= kills or time.monotonic() - begun > seconds
            try:
                code = process.wait(None if last else rng.uniform(0.3, 1.5) * alone)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                told["kills"] += 1
                told["damaged"] += bool(folder.is_dir() and sound(folder))
                continue
            break
        told["failed"] += code != 0
        told["runs"] += 1
        told["unequal"] += code != 0 or content(folder, steps) != expected
    time.sleep(1.0)
    told["orphans"] = len(orphans())
    return told


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9, help="kill no more after so long")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = storm(given.kills, given.steps, given.seed, given.seconds, Path(folder))
    print(", ".join(f"{name} {number}" for name, number in told.items()) + f"; seed {given.seed}")
    return int(any(told[name] for name in ("unequal", "damaged", "failed", "orphans")))


if __name__ == "__main__":
    raise SystemExit(main())
