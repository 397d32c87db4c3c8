# SPDX-License-Identifier: Apache-2.0
"""Kill a run again and again: `python tests/reliability/killstorm.py --kills N [--steps S] [--seed K] [--forked]`.

A run of S steps is killed (SIGKILL) at random moments and started again with the same command until it is done; then
the next begins, until N kills are spent.  Moments are counted in the run's processor time, so that they fall as often
into a save on a busy machine as on an idle one.  Each finished run must equal one that was left alone: weights,
optimizer state, every completion and its reward.  After every kill the newest checkpoint must be whole and no process
left.  With --forked the runs are forks of this process, which has loaded Paddle: a third of the time per kill; the run
they are compared with is started anew.  With --seconds S there are no more kills after so long.
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
from collections.abc import Callable, Collection, Sequence
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


class Forked:
    """A command of this package in a fork of this process; what `subprocess.Popen` offers, as far as it is used."""

    def __init__(self, words: list[str]) -> None:
        """Run the words behind `python -m r1_mllm`."""
        from r1_mllm import cli
        from r1_mllm.models import host
        from r1_mllm.training import grpo  # noqa: F401  loaded once, here

        host.loops()
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            os.setsid()
            nowhere = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(nowhere, number)
            code = 1
            try:
                cli.main(words)
                code = 0
            except SystemExit as end:
                code = end.code
            finally:
                os._exit(code)
        started.append(self.pid)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        """Wait for the end; the exit code."""
        while self.poll() is None:
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)


Run = subprocess.Popen | Forked


def stat(pid: int | str) -> list[str]:
    """What Linux says of a process, from its state on: the third and later words of /proc/PID/stat."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def processor_seconds(pid: int) -> float:
    """Processor time of a process that has not been waited for."""
    user, system = stat(pid)[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def resident_kb(pid: int) -> int:
    """Resident memory of a process, KiB; 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")), 0)


def spend(process: Run, seconds: float) -> bool:
    """Wait until a run has used so much processor time, all in all; False when it ended before."""
    while process.poll() is None:
        if processor_seconds(process.pid) >= seconds:
            return True
        time.sleep(0.02)
    return False


def spend_more(process: Run, seconds: float) -> bool:
    """As `spend`, counted from now."""
    return process.poll() is None and spend(process, processor_seconds(process.pid) + seconds)


def whole_cost(process: Run) -> float:
    """Wait for a run's end; its processor time."""
    used = 0.0
    while process.poll() is None:
        used = processor_seconds(process.pid)
        time.sleep(0.05)
    return used


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


def differing(folder: Path, steps: int, expected: dict[str, object]) -> list[str]:
    """Say what of a finished run is not as expected, and print it."""
    found = [name for name, value in content(folder, steps).items() if value != expected[name]]
    if found:
        print(f"{folder.name} differs in {', '.join(found)}", file=sys.stderr, flush=True)
    return found


def logged(folder: Path) -> int:
    """Steps whose metrics are written."""
    log = folder / "metrics.jsonl"
    return log.read_bytes().count(b'"loss"') if log.exists() else 0


def newest(folder: Path) -> int:
    """Step of the newest checkpoint, 0 without any."""
    from r1_mllm.training import checkpoint

    found = checkpoint.checkpoints(folder) if folder.is_dir() else []
    return found[0][0] if found else 0


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
            parent = stat(name)[1]
        except OSError:
            continue
        mine = any(str(pid).encode() in words.split(b"\0") for pid in started)
        if b"reward_worker.py" in words and parent == "1" and mine:
            found.append(int(name))
    return found


def storm(kills: int, steps: int, seed: int, seconds: float, root: Path, forked: bool = False) -> dict[str, int]:
    """Spend the kills (or the seconds); counts of kills, finished runs and whatever was wrong."""
    rng = random.Random(seed)
    train, reward = prepare(root)
    begun = time.monotonic()
    reference = root / "reference"
    process = start(command(train, reward, reference, steps))
    alone = whole_cost(process)
    assert process.returncode == 0, process.stderr.read().decode()
    expected = content(reference, steps)
    begin: Callable[[list[str]], Run] = (lambda words: Forked(words[3:])) if forked else start
    if forked:
        alone = whole_cost(begin(command(train, reward, root / "forked", steps)))
    told = {"kills": 0, "runs": 0, "unequal": 0, "damaged": 0, "failed": 0, "orphans": 0}
    while told["kills"] < kills and time.monotonic() - begun < seconds:
        folder = root / f"run-{told['runs']}"
        while True:
            process = begin(command(train, reward, folder, steps))
            last = told["kills"] >= kills or time.monotonic() - begun > seconds
            if last or not spend(process, rng.uniform(0.1, 0.9) * alone):
                break
            process.send_signal(signal.SIGKILL)
            told["kills"] += process.wait() == -signal.SIGKILL
            told["damaged"] += bool(folder.is_dir() and sound(folder))
        code = process.wait()
        told["failed"] += code != 0
        told["runs"] += 1
        told["unequal"] += code != 0 or bool(differing(folder, steps, expected))
        print(told, file=sys.stderr, flush=True)
    time.sleep(1.0)
    told["orphans"] = len(orphans())
    return told


def conduct(about: str, storm: Callable[..., dict], problems: Sequence[str], **flags: float) -> int:
    """Read flags with these defaults, let the storm loose in a folder and print what it told; 1 if it met problems."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in flags.items():
        kind = {"action": "store_true"} if default is False else {"type": type(default), "default": default}
        parser.add_argument(f"--{name}", **kind)
    given = vars(parser.parse_args())
    os.environ["OMP_NUM_THREADS"] = "1"  # of forked runs, as of `start`: sums over two threads have other last bits
    with tempfile.TemporaryDirectory() as folder:
        told = storm(**given, root=Path(folder))
    print(", ".join(f"{name} {number}" for name, number in told.items()) + f"; seed {given['seed']}")
    return int(any(told[name] for name in problems))


if __name__ == "__main__":
    wrong = ("unequal", "damaged", "failed", "orphans")
    raise SystemExit(conduct(__doc__, storm, wrong, kills=300, steps=12, seed=0, seconds=1e9, forked=False))
