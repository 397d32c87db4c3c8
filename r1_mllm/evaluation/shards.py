# SPDX-License-Identifier: Apache-2.0
"""Rows that several processes answer together: who answers which, what is answered already, and the helpers themselves.

Examples are cut into blocks of the batch size; process K of N takes every N-th block, so that a batch holds the same
examples however many processes there are.  Each process keeps its rows in a file of its own beside the results,
`NAME.shard-K-of-N.partial.jsonl`; process 0 reads them all, waits for what is missing, and writes the results.  Rows
carry the number of their example, hence a run may go on with another number of processes.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import save_args
from ..runtime import USAGE, Stop, prepare, require_paddle
from .partial import PartialResults, stored_rows

POLL_SECONDS = 0.2
_SHARD = re.compile(r"\.shard-\d+-of-\d+\.partial\.jsonl$")


@dataclass
class Team:
    """This process's place among those that answer together, and the helpers it has started."""

    rank: int = 0
    world: int = 1
    helpers: Sequence[tuple[subprocess.Popen, Path]] = field(default=(), repr=False)
    """Each with the file its words go to."""

    def check(self) -> None:
        """Raise Stop when a helper has failed, with its last words."""
        for process, words in self.helpers:
            code = process.poll()
            if code:
                last = words.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
                raise Stop(
                    f"a helper process ended with code {code}: {''.join(last)} (all of it: {words})", max(code, 1)
                )

    def close(self) -> None:
        """End the helpers that still run."""
        for process, _ in self.helpers:
            if process.poll() is None:
                process.terminate()
        for process, _ in self.helpers:
            process.wait()


def launched_place() -> Team:
    """The place that `paddle.distributed.launch` gave this process; alone: 0 of 1."""
    return Team(int(os.environ.get("PADDLE_TRAINER_ID", "0")), int(os.environ.get("PADDLE_TRAINERS_NUM", "1")))


@contextlib.contextmanager
def start(num_processes: int, command: str, told: Any, folder: Path) -> Iterator[Team]:
    """Start num_processes - 1 helpers that run the same command as further ranks; they end with the body.

    Args:
        command: of r1-mllm.  told: its settings, for one process and without --overwrite.
        folder: where the helpers' settings and output go.
    """
    place = launched_place()
    if num_processes < 1:
        raise Stop(f"--num_processes {num_processes}: must be at least 1", USAGE)
    if num_processes == 1:
        yield place
        return
    if place.world > 1:
        raise Stop(
            "--num_processes is for a process started alone; the launcher's processes share the rows as they are"
        )
    prepare(num_processes)
    devices = _devices()
    save_args(told, folder / "helpers.yaml")
    words = [sys.executable, "-m", "r1_mllm", *command.split(), "--config", str(folder / "helpers.yaml")]
    helpers: list[tuple[subprocess.Popen, Path]] = []
    team = Team(0, num_processes, helpers)
    try:
        for rank in range(1, num_processes):
            log = folder / f"helper-{rank}.log"
            with log.open("w", encoding="utf-8") as file:
                environment = _environment(rank, num_processes, devices)
                process = subprocess.Popen(
                    words, env=environment, stdout=file, stderr=subprocess.STDOUT, preexec_fn=_end_with_parent()
                )
            helpers.append((process, log))
        yield team
    finally:
        team.close()


def _end_with_parent() -> Callable[[], None] | None:
    """What a helper does before it starts, so that it does not outlive a killed parent; Linux only."""
    if sys.platform != "linux":
        return None
    prctl, pr_set_pdeathsig = ctypes.CDLL(None).prctl, 1
    return lambda: prctl(pr_set_pdeathsig, signal.SIGTERM)


def _devices() -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES; none on a machine without GPUs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    cuda = require_paddle().device.cuda
    return [str(i) for i in range(cuda.device_count())]


def _environment(rank: int, world: int, devices: Sequence[str]) -> dict[str, str]:
    """Variables of a helper: the launcher's names for its place, its share of the cores, its device."""
    package_parent = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([package_parent, *filter(None, [os.environ.get("PYTHONPATH")])])
    place = {"PADDLE_TRAINER_ID": rank, "PADDLE_TRAINERS_NUM": world, "PADDLE_LOCAL_SIZE": world}
    environment = {**os.environ, **{name: str(value) for name, value in place.items()}, "PYTHONPATH": path}
    if devices:
        environment |= {"CUDA_VISIBLE_DEVICES": devices[rank % len(devices)], "FLAGS_selected_gpus": "0"}
    return environment


class SharedRows:
    """The rows of one results file while they come, from this process and others."""

    def __init__(self, results_path: Path, key: str, num: int, block: int, team: Team) -> None:
        """Read what is answered.

        Args:
            results_path: of the finished file; rows stand beside it until then.
            key: rows of another key are passed over.
            num: how many rows there will be.
            block: examples asked together.
        """
        self.path, self.key, self.num, self.block, self.team = results_path, key, num, block, team
        self.known = self._read()
        self._file: PartialResults | None = None

    def missing(self, whole_blocks: bool = False) -> list[list[int]]:
        """Numbers of the examples that this process has to answer, block by block.

        Args:
            whole_blocks: also repeat the answered rest of a block (its random numbers follow the place in the block).
        """
        blocks = [range(at, min(at + self.block, self.num)) for at in range(0, self.num, self.block)]
        mine = [list(block) for block in blocks[self.team.rank :: self.team.world]]
        open_ones = [block for block in mine if any(i not in self.known for i in block)]
        return open_ones if whole_blocks else [[i for i in block if i not in self.known] for block in open_ones]

    def add(self, indices: Sequence[int], rows: Sequence[dict[str, Any]]) -> None:
        """Keep finished rows, on disk at once."""
        if self._file is None:
            self._file = PartialResults(self._own_name(), self.key)
        self._file.add([{"index": i, "row": row} for i, row in zip(indices, rows, strict=True)])
        self.known.update(zip(indices, rows, strict=True))

    def gather(self) -> list[dict[str, Any]]:
        """All rows in order; waits for the other processes."""
        sizes = None
        if len(self.known) < self.num:
            print(f"waiting for {self.num - len(self.known)} rows of the other processes")
        while len(self.known) < self.num:
            self.team.check()
            running = [process for process, _ in self.team.helpers if process.poll() is None]
            time.sleep(POLL_SECONDS)
            found = {path: path.stat().st_size for path in self._paths()}
            if found != sizes:
                sizes = found
                self.known.update(self._read())
            elif self.team.helpers and not running:
                raise Stop(f"the helper processes have ended and {self.num - len(self.known)} rows are missing")
        return [self.known[i] for i in range(self.num)]

    def remove(self) -> None:
        """Delete the files: the results are complete elsewhere."""
        for path in self._paths():
            path.unlink(missing_ok=True)

    def _own_name(self) -> Path:
        """A results file's name, from which PartialResults makes this process's own."""
        team = self.team
        return self.path if team.world == 1 else self.path.with_suffix(f".shard-{team.rank}-of-{team.world}.json")

    def _paths(self) -> list[Path]:
        whole = self.path.with_suffix(".partial.jsonl")
        beside = self.path.parent.glob(glob.escape(self.path.stem) + ".shard-*.partial.jsonl")
        shards = [path for path in beside if _SHARD.fullmatch(path.name.removeprefix(self.path.stem))]
        return [path for path in [whole, *sorted(shards)] if path.is_file()]

    def _read(self) -> dict[int, dict[str, Any]]:
        known: dict[int, dict[str, Any]] = {}
        for path in self._paths():
            for position, line in enumerate(stored_rows(path, self.key)):
                index, row = _numbered(line, position)
                if 0 <= index < self.num:
                    known[index] = row
        return known


def _numbered(line: Mapping[str, Any], position: int) -> tuple[int, dict[str, Any]]:
    """A line's example and row; a row without a number stands at its place."""
    return (line["index"], line["row"]) if set(line) == {"index", "row"} else (position, dict(line))


def forget(paths: Sequence[Path]) -> None:
    """Delete what is there of these results, finished or not; for `--overwrite`."""
    if launched_place().world > 1:
        raise Stop("--overwrite does not go with a launcher's processes: remove the results files first", USAGE)
    for path in paths:
        SharedRows(path, "", 0, 1, Team()).remove()
        path.unlink(missing_ok=True)
