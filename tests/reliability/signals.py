# SPDX-License-Identifier: Apache-2.0
"""Ask a run to stop again and again: `python tests/reliability/signals.py --num N [--steps S] [--seed K]`.

As killstorm.py --forked, but with SIGTERM, SIGINT or three SIGTERMs 0.2 s apart (as launchers send them).  Each time
the run must end with 75 and have saved the last step it logged; one that had not begun to train may also end as
programs do (130, or by the signal).  Each finished run must equal one that was left alone.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import killstorm

from r1_mllm.runtime import STOPPED

BURSTS = ((signal.SIGTERM,), (signal.SIGINT,), (signal.SIGTERM,) * 3)

EARLY = (STOPPED, 130, -signal.SIGTERM, -signal.SIGINT)


def training(folder: Path) -> bool:
    """Whether the run says that it takes steps."""
    file = folder / "status.json"
    return file.exists() and json.loads(file.read_text())["state"] == "running"


def stop(process: killstorm.Forked, burst: tuple[int, ...]) -> tuple[float, float]:
    """Send the signals and wait for the end; seconds and processor seconds it took."""
    begun, used = time.monotonic(), killstorm.processor_seconds(process.pid)
    for number in burst:
        process.send_signal(number)
        until = time.monotonic() + 0.2 * (len(burst) > 1)
        while time.monotonic() < until and process.poll() is None:
            time.sleep(0.005)
    after = used
    while process.poll() is None:
        after = killstorm.processor_seconds(process.pid)
        time.sleep(0.002)
    return time.monotonic() - begun, after - used


def storm(num: int, steps: int, seed: int, root: Path) -> dict[str, float]:
    """Spend the signals; counts of what happened and the longest ends."""
    rng = random.Random(seed)
    train, reward = killstorm.prepare(root)
    flags = {"save_steps": 8}
    reference = root / "reference"
    assert killstorm.start(killstorm.command(train, reward, reference, steps, **flags)).wait() == 0
    expected = killstorm.content(reference, steps)
    alone = killstorm.whole_cost(killstorm.Forked(killstorm.command(train, reward, root / "warm", steps, **flags)[3:]))
    told = dict.fromkeys(("stops", "bursts", "before_steps", "steps_lost", "other_codes", "runs", "unequal"), 0)
    longest = {"longest_end_s": 0.0, "longest_end_processor_s": 0.0}
    while told["stops"] < num:
        folder = root / f"run-{told['runs']}"
        while True:
            process = killstorm.Forked(killstorm.command(train, reward, folder, steps, **flags)[3:])
            if told["stops"] >= num or not killstorm.spend(process, rng.uniform(0.1, 0.9) * alone):
                break
            burst, trains = rng.choice(BURSTS), training(folder)
            taken = stop(process, burst)
            if process.returncode == 0:  # too late: it was done
                break
            told["stops"] += 1
            told["bursts"] += len(burst) > 1
            told["before_steps"] += not trains
            told["other_codes"] += process.returncode not in ((STOPPED,) if trains else EARLY)
            told["steps_lost"] += killstorm.logged(folder) - killstorm.newest(folder)
            longest = {name: max(most, new) for (name, most), new in zip(longest.items(), taken, strict=True)}
        told["runs"] += 1
        if code := process.wait():
            print(f"{folder.name} ended with {code}", file=sys.stderr, flush=True)
        told["unequal"] += code != 0 or bool(killstorm.differing(folder, steps, expected))
        print(told, file=sys.stderr, flush=True)
    time.sleep(1.0)
    return told | {"orphans": len(killstorm.orphans())} | {name: round(most, 2) for name, most in longest.items()}


if __name__ == "__main__":
    wrong = ("steps_lost", "other_codes", "unequal", "orphans")
    raise SystemExit(killstorm.conduct(__doc__, storm, wrong, num=100, steps=40, seed=0))
