# SPDX-License-Identifier: Apache-2.0
"""Train under random faults: `python tests/reliability/soak.py MINUTES [--seed K]` (scripts/soak.sh runs it).

Runs follow each other on a small disk (a tmpfs where mounting is permitted), over data with hostile rows and with a
reward file of its own.  Every few seconds of the run's processor time one fault happens: the run is killed, or asked
to stop, its reward worker is killed, the disk is filled for a while, or the newest checkpoint is damaged while nothing
runs.  The same command is given again until the run is done; then its weights, optimizer state, completions and
metrics must equal those of a run that was left alone.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import killstorm

from r1_mllm.runtime import DISK, OUTPUT, STOPPED

STEPS = 20
DISK_SIZE = "40m"
HOSTILE_ROWS = (
    '{"problem": "cut off',
    '{"problem": "How many?", "solution": "3", "image": "../../../etc/passwd"}',
    '{"problem": "How many?", "solution": "3", "image": "/dev/zero"}',
    '{"problem": NaN, "solution": "3"}',
    '{"problem": "x", "problem": "y", "solution": "3"}',
    '{"problem": "\\ud800", "solution": "3"}',
    "[" * 5000,
    "[1, 2]",
)
FAULTS = ("kill", "kill", "stop", "reward worker", "full disk", "damage")


class Soak:
    """A disk, the data, and the counts of what happened."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.rng, self.told = root, random.Random(seed), Counter()
        self.disk = root / "disk"
        self.disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "tmpfs", str(self.disk)]
        self.mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
        self.data, self.reward = killstorm.prepare(root)
        self._add_hostile_rows()
        self.damaged: set[int] = set()
        """Inodes of the checkpoints that were damaged on purpose."""
        self.lost_steps = self.most_kb = 0
        self.problems: list[str] = []

    def _add_hostile_rows(self) -> None:
        import json

        rows = json.loads(self.data.read_text())
        lines = [json.dumps(row) for row in rows]
        for number, row in enumerate(HOSTILE_ROWS):
            lines.insert(2 * number, row)
        self.data = self.data.with_name("hostile.jsonl")
        self.data.write_text("\n".join(lines) + "\n")

    def close(self) -> None:
        """Give the disk back."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.disk)], check=True)

    def command(self, folder: Path) -> list[str]:
        """The command that is given again and again."""
        options = {"data_policy": "quarantine", "max_bad": len(HOSTILE_ROWS), "save_total_limit": 3}
        return killstorm.command(self.data, self.reward, folder, STEPS, **options)

    def run(self, folder: Path, disturbed: bool, until: float) -> bool:
        """Give the command until the run is done; False when time was up before."""
        while True:
            process = killstorm.start(self.command(folder))
            if disturbed:
                self._disturb(process, folder)
            code = process.wait()
            (self.disk / "filler").unlink(missing_ok=True)
            if code == 0:
                return True
            # -SIGTERM: asked to stop before the interpreter had loaded the trainer
            known = (-signal.SIGKILL, -signal.SIGTERM, STOPPED, DISK, OUTPUT) if disturbed else ()
            if code not in known:
                self.problems.append(f"exit code {code}: {process.stderr.read().decode()[-600:]}")
                return False
            if time.monotonic() > until:
                return False

    def _disturb(self, process: subprocess.Popen, folder: Path) -> None:
        """Let one fault after the other happen until the process has ended."""
        while True:
            if not killstorm.spend_more(process, self.rng.uniform(1.0, 6.0)):
                return
            self.most_kb = max(self.most_kb, killstorm.resident_kb(process.pid))
            fault = self.rng.choice(FAULTS)
            if fault == "full disk" and not self.mounted:
                continue
            self.told[fault] += 1
            before = killstorm.logged(folder)
            if fault == "kill" or fault == "damage":
                process.send_signal(signal.SIGKILL)
                process.wait()
                self.lost_steps += max(0, before - killstorm.newest(folder))
                if problem := folder.is_dir() and killstorm.sound(folder, self.damaged):
                    self.problems.append(f"after a kill: {problem}")
                if fault == "damage":
                    self._damage(folder)
                return
            if fault == "stop":
                process.send_signal(signal.SIGTERM)
            elif fault == "reward worker":
                for pid in reward_workers(process.pid):
                    os.kill(pid, signal.SIGKILL)
            else:
                self._fill(process)

    def _damage(self, folder: Path) -> None:
        """Flip a bit of the newest checkpoint, unless it is the only one."""
        from r1_mllm.training import checkpoint

        found = checkpoint.checkpoints(folder)
        if len(found) < 2:
            self.told["damage"] -= 1
            return
        self.damaged.add(found[0][1].stat().st_ino)
        path = self.rng.choice(sorted(path for path in found[0][1].rglob("*") if path.is_file()))
        content = bytearray(path.read_bytes())
        content[self.rng.randrange(len(content))] ^= 1 << self.rng.randrange(8)
        path.write_bytes(content)

    def _fill(self, process: subprocess.Popen) -> None:
        """Take all room of the disk for a while."""
        filler = self.disk / "filler"
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass
        killstorm.spend_more(process, self.rng.uniform(0.2, 2.0))
        filler.unlink()


def reward_workers(parent: int) -> list[int]:
    """Process ids of a run's reward workers."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return []
    return [int(pid) for pid in children if b"reward_worker.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float, nargs="?", default=120.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    shared_memory = set(os.listdir("/dev/shm"))
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), given.seed)
        try:
            return soak_until(soak, time.monotonic() + 60 * given.minutes, shared_memory)
        finally:
            soak.close()


def soak_until(soak: Soak, until: float, shared_memory: set[str]) -> int:
    """Run after run until time is up; prints what happened."""
    begun = time.monotonic()
    alone = soak.root / "alone"
    if not soak.run(alone, False, until):
        print("the undisturbed run failed:", *soak.problems, sep="\n")
        return 1
    expected = killstorm.content(alone, STEPS)
    quarantined = len((alone / "quarantine.jsonl").read_text().splitlines())
    runs = unequal = 0
    while time.monotonic() < until and not soak.problems:
        folder = soak.disk / f"run-{runs}"
        if not soak.run(folder, True, until):
            break
        runs += 1
        different = killstorm.differing(folder, STEPS, expected)
        unequal += bool(different)
        soak.problems += [f"run {runs}: {name} differs" for name in different]
        soak.problems += [f"left behind: {path}" for path in folder.glob(".t*")]
        shutil.rmtree(folder)
    time.sleep(1.0)
    left = sorted(set(os.listdir("/dev/shm")) - shared_memory)
    faults = ", ".join(f"{name} {number}" for name, number in sorted(soak.told.items()))
    print(f"{(time.monotonic() - begun) / 60:.1f} minutes, {'tmpfs ' + DISK_SIZE if soak.mounted else 'no small disk'}")
    print(f"faults: {sum(soak.told.values())} ({faults}); hostile rows set aside: {quarantined}")
    print(f"runs finished: {runs} of {STEPS} steps, {unequal} unlike the undisturbed one")
    print(f"steps done again after kills: {soak.lost_steps}; most memory of a run: {soak.most_kb / 1024:.0f} MiB")
    print(f"workers left: {len(killstorm.orphans())}; files left in /dev/shm: {len(left)}")
    for problem in soak.problems:
        print("problem:", problem)
    return int(bool(soak.problems or not runs))


if __name__ == "__main__":
    raise SystemExit(main())
