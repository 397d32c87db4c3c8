# SPDX-License-Identifier: Apache-2.0
"""Damage the newest checkpoint at random: `python tests/reliability/corruption.py --num N [--starts M] [--seed S]`.

Each time one file (the manifest included) is changed, cut, emptied, removed, exchanged or joined by another; the check
must name a damaged file.  From M of them the run is opened: it must go on from the checkpoint before.  `--commands C`
then damages a real run C times and gives its command again: it must say which file is damaged, continue from the
checkpoint before and end with the weights it had; one time in ten all checkpoints are damaged, which must end it with
code 66 and leave everything where it is.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parent))
import killstorm

from r1_mllm import runtime

runtime.prepare()
STEPS = 4
ALL_EVERY = 10
"""Of so many real starts one finds every checkpoint damaged."""


def make_run(folder: Path) -> Path:
    """A run with two checkpoints; returns the newest."""
    from r1_mllm.training import checkpoint

    run = open_run(folder)
    rng = np.random.default_rng(3)
    for step in (1, 2):
        arrays = {name: rng.standard_normal((40, 30)).astype(np.float32) for name in ("a", "b")}

        def write(target: Path, arrays=arrays) -> None:
            save_file(arrays, target / "model.safetensors")
            (target / "config.json").write_text('{"model_type": "qwen2_5_vl"}')

        run.save(step, write, {"a/moment1": arrays["a"]}, {"position": step})
    run.close()
    return checkpoint.checkpoints(folder)[0][1]


def open_run(folder: Path):
    """Open the folder as training does."""
    from r1_mllm.config import GrpoConfig, TrainingConfig
    from r1_mllm.training import checkpoint

    return checkpoint.open_run(GrpoConfig(training=TrainingConfig(output_dir=str(folder))))


def damage(folder: Path, rng: random.Random) -> str:
    """Change one file of a checkpoint; say how."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = rng.choice(files)
    content = bytearray(path.read_bytes())
    kind = rng.choice(("flip", "flip", "cut", "zeros", "append", "remove", "exchange", "added", "insert"))
    at = rng.randrange(len(content))
    if kind == "flip":
        content[at] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[at:]
    elif kind == "zeros":
        tail = bytes(len(content) - at)
        kind, content[at:] = ("zeros" if content[at:] != tail else "append"), tail
        content += b"\0" if kind == "append" else b""
    elif kind == "append":
        content += rng.randbytes(rng.randrange(1, 100))
    elif kind == "insert":
        content[at:at] = rng.randbytes(rng.randrange(1, 9))
    elif kind == "remove":
        path.unlink()
        return f"remove {path.name}"
    elif kind == "exchange":
        other = rng.choice([file for file in files if file.read_bytes() != bytes(content)])
        content = bytearray(other.read_bytes())
    else:
        path = path.with_name(path.name + ".extra")
    path.write_bytes(content)
    return f"{kind} {path.name}"


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=500)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--commands", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    missed, unnamed, wrong_starts = run(given.num, given.starts, given.seed)
    print(
        f"{given.num} damaged checkpoints: {given.num - len(missed)} detected, {len(unnamed)} without a file's name; "
        f"{given.starts} starts, {len(wrong_starts)} not from the checkpoint before; seed {given.seed}"
    )
    wrong = run_commands(given.commands, given.seed)
    if given.commands:
        print(f"{given.commands} starts of the command, {len(wrong)} not as they should be")
    for line in (missed + unnamed + wrong_starts + wrong)[:10]:
        print(line)
    return int(bool(missed or unnamed or wrong_starts or wrong))


def run(num: int, starts: int, seed: int) -> tuple[list[str], list[str], list[str]]:
    """Damage `num` times; returns what was not detected, not named, and not started from the checkpoint before."""
    from r1_mllm.training import durable

    rng = random.Random(seed)
    missed, unnamed, wrong = [], [], []
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "run"
        newest = make_run(folder)
        kept = Path(root) / "kept"
        shutil.copytree(newest, kept)
        for number in range(num):
            what = damage(newest, rng)
            problem = durable.damage(newest)
            if problem is None:
                missed.append(f"{number}: {what}")
            elif str(newest) + os.sep not in problem:
                unnamed.append(f"{number}: {what}: {problem}")
            if number < starts:
                wrong += _start(folder, newest, f"{number}: {what}")
            shutil.rmtree(newest)
            shutil.copytree(kept, newest)
    return missed, unnamed, wrong


def run_commands(num: int, seed: int) -> list[str]:
    """Damage a real run `num` times and give its command again; what was not as it should be."""
    if num < 1:
        return []
    rng, wrong = random.Random(f"commands/{seed}"), []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        train, reward = killstorm.prepare(root)
        kept, folder = root / "kept", root / "run"
        words = killstorm.command(train, reward, folder, STEPS, save_steps=1)
        code, told = _give(words)
        if code:
            return [told]
        os.rename(folder, kept)
        for number in range(num):
            shutil.copytree(kept, folder, ignore=shutil.ignore_patterns("final"))
            steps = (STEPS, STEPS - 1) if number % ALL_EVERY == ALL_EVERY - 1 else (STEPS,)
            what = ", ".join(damage(folder / f"checkpoint-{step}", rng) for step in steps)
            problem = _not_resumed(words, folder, kept) if len(steps) == 1 else _not_refused(words, folder)
            wrong += [f"{number}: {what}: {problem}"] if problem else []
            print(f"start {number + 1}: {what}: {problem or 'as it should be'}", file=sys.stderr, flush=True)
            shutil.rmtree(folder)
    return wrong


def _give(words: list[str]) -> tuple[int, str]:
    process = killstorm.start(words)
    told = process.communicate()[1].decode()
    return process.returncode, told


def _not_resumed(words: list[str], folder: Path, kept: Path) -> str | None:
    """Say what is wrong with a start that should pass over the newest checkpoint."""
    code, told = _give(words)
    newest = folder / f"checkpoint-{STEPS}"
    named = f"warning: {newest} is passed over: {newest}{os.sep}" in told
    if code or not named or f"resuming from step {STEPS - 1}:" not in told:
        return f"code {code}; {told[-500:]!r}"
    same = killstorm.content(folder, STEPS) == killstorm.content(kept, STEPS)
    return None if same else "other weights, completions or metrics"


def _not_refused(words: list[str], folder: Path) -> str | None:
    """Say what is wrong with a start that should find no checkpoint."""
    before = _contents(folder)
    code, told = _give(words)
    if code != runtime.MODEL or "every checkpoint" not in told:
        return f"code {code}; {told[-500:]!r}"
    return None if _contents(folder) == before else "the checkpoints were changed"


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.glob("checkpoint-*/**/*") if path.is_file()}


def _start(folder: Path, newest: Path, what: str) -> list[str]:
    """Open the run; complain unless it continues from step 1 and names the damaged checkpoint."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        run = open_run(folder)
    step = run.resume_point.step if run.resume_point else None
    run.close()
    right = step == 1 and told.getvalue().count(f"warning: {newest} is passed over") == 1
    return [] if right else [f"{what}: started from {step}; {told.getvalue()!r}"]


if __name__ == "__main__":
    raise SystemExit(main())
