# SPDX-License-Identifier: Apache-2.0
"""What a run tells while it trains: metrics.jsonl and completions.jsonl (the truth), trackers (a convenience that may
fail without harm) and the terminal.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..records import Group
from . import gallery
from .trackers import INSTALL, OPENERS, Outlet

NUM_SHOWN = 50
"""Times in a run that trackers are given pictures and texts, about."""
_SHOWN = ("reward", "loss", "kl", "completions/mean_length")


class Lines:
    """A JSONL file that is appended to; lines a full disk does not take wait for the next time."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self.path, self._warn = path, warn
        self._file = path.open("ab", buffering=0)
        self._waiting = b""

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one line at once, so that a kill tears at most the last one."""
        complain = not self._waiting
        self._waiting += (json.dumps(plain(row), ensure_ascii=False) + "\n").encode("utf-8")
        if (error := self._write()) and complain:
            self._warn(f"warning: {self.path} cannot be written ({error}); its lines wait for room")

    def close(self) -> None:
        """Close the file; lines that still wait are lost, with a warning."""
        if error := self._write():
            self._warn(f"warning: {len(self._waiting)} bytes of {self.path} are lost ({error})")
        self._file.close()

    def _write(self) -> OSError | None:
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            return error
        return None


class Tracker:
    """Writes a run's logs; ranks other than 0 write nothing."""

    def __init__(
        self,
        output_dir: str | Path,
        report_to: Sequence[str] = ("visualdl",),
        logging_dir: str | Path | None = None,
        total_steps: int = 0,
        first_step: int = 0,
        rank: int = 0,
    ) -> None:
        """Open the logs, behind what an earlier part of the run wrote.

        Args:
            report_to: visualdl, tensorboard, swanlab, wandb; none switches all of them off.
            logging_dir: folder of the tracker's files; None: output_dir/logs.
            total_steps, first_step: for the progress bar and the remaining time.
        """
        self.active = rank == 0
        self.total_steps = total_steps
        self._trackers: dict[str, Outlet] = {}
        self._bar: tqdm | None = None
        self._seconds: list[float] = []
        self._last = (first_step, time.monotonic())
        self._last_shown: int | None = None
        if not self.active:
            return
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._metrics = Lines(folder / "metrics.jsonl", self.message)
        self._completions = Lines(folder / "completions.jsonl", self.message)
        logs = Path(logging_dir) if logging_dir else folder / "logs"
        for name in dict.fromkeys(report_to):
            self._open(name.lower(), logs)
        if sys.stderr.isatty():
            self._bar = tqdm(total=total_steps or None, initial=first_step, unit="step", dynamic_ncols=True)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line of metrics (TRL's names), send it to the trackers and show it."""
        if not self.active:
            return
        numbers = {name: float(value) for name, value in values.items()}
        self._metrics.append({"step": step, **numbers})
        for name in list(self._trackers):
            finite = {key: value for key, value in numbers.items() if math.isfinite(value)}
            self._try(name, lambda outlet, finite=finite: outlet.write(step, finite))
        self._show(step, numbers)

    def completions(self, step: int, groups: Sequence[Group]) -> None:
        """Append one line per completion: what was asked, answered, read from it, earned."""
        if not self.active:
            return
        for group in groups:
            for row in completion_rows(step, group):
                self._completions.append(row)
        self._show_samples(step, groups)

    def _show_samples(self, step: int, groups: Sequence[Group]) -> None:
        every = max(1, self.total_steps // NUM_SHOWN)
        if not self._trackers or (self._last_shown is not None and step // every == self._last_shown // every):
            return
        self._last_shown = step
        for name in list(self._trackers):
            self._try(name, lambda outlet: outlet.show(step, gallery.shown(groups)))

    def message(self, text: str) -> None:
        """Print a line without tearing the progress bar."""
        if self.active:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Close files, trackers and the bar."""
        if not self.active:
            return
        self._metrics.close()
        self._completions.close()
        for name in list(self._trackers):
            self._try(name, lambda outlet: outlet.close())
        self._trackers.clear()
        if self._bar is not None:
            self._bar.close()

    def _open(self, name: str, folder: Path) -> None:
        if name in ("none", "all", ""):
            return
        if name not in OPENERS:
            print(f"warning: --report_to {name}: no such tracker; known are {', '.join(OPENERS)}", file=sys.stderr)
            return
        try:
            self._trackers[name] = OPENERS[name](folder)
        except ImportError as error:
            print(f"warning: --report_to {name}: {error}; {INSTALL[name]}; going on without", file=sys.stderr)
        except Exception as error:  # a tracker's failure, of whatever kind, must not stop the training it watches
            print(f"warning: {name} could not be opened ({error}); going on without", file=sys.stderr)

    def _try(self, name: str, act: Callable[[Outlet], None]) -> None:
        """Let a tracker act; one that fails is named and dropped."""
        try:
            act(self._trackers[name])
        except Exception as error:  # as above
            del self._trackers[name]
            self.message(f"warning: {name} failed ({error}); metrics.jsonl goes on")

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        if "reward" not in values and "loss" not in values:  # an evaluation
            self.message(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
            return
        seconds = self._seconds_per_step(step)
        shown = {name.split("/")[-1]: f"{values[name]:.4g}" for name in _SHOWN if name in values}
        if "tokens_per_second" in values:
            shown["tokens/s"] = f"{values['tokens_per_second']:.0f}"
        phases = {name[5:]: value for name, value in values.items() if name.startswith("time/")}
        if phases:
            shown["seconds"] = ", ".join(f"{name} {value:.2f}" for name, value in phases.items())
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(step - self._bar.n)
            return
        left = max(0, self.total_steps - step) * seconds
        head = f"step {step}/{self.total_steps}" if self.total_steps else f"step {step}"
        parts = [f"{name} {text}" for name, text in shown.items()] + [f"{seconds:.2f} s/step"]
        if self.total_steps:
            parts.append(f"ETA {tqdm.format_interval(left)}")
        print(f"{head}  " + "  ".join(parts), file=sys.stderr, flush=True)

    def _seconds_per_step(self, step: int) -> float:
        """Average over the last twenty calls, whatever else happened in between."""
        last_step, then = self._last
        now = time.monotonic()
        if step > last_step:
            self._seconds = [*self._seconds[-19:], (now - then) / (step - last_step)]
            self._last = (step, now)
        return float(np.mean(self._seconds)) if self._seconds else 0.0


def completion_rows(step: int, group: Group) -> Iterator[dict[str, Any]]:
    """Describe each completion of a scored group as JSON values."""
    example = group.example
    pictures = [source if isinstance(source, str) else f"<{len(source)} bytes>" for source in example.images]
    shared = {
        "step": step,
        "id": plain(example.meta.get("id", example.meta.get("where"))),
        "task": example.task,
        "prompt": group.prompt.text,
        "question": example.question,
        "image": pictures[0] if pictures else None,
        "ground_truth": plain(example.answer),
    }
    if len(pictures) > 1:
        shared["images"] = pictures
    for i, completion in enumerate(group.completions):
        row = {
            **shared,
            "completion": completion.text,
            "finished": completion.finished,
            "num_tokens": len(completion.ids),
            "rewards": {name: plain(values[i]) for name, values in {**group.parts, **group.details}.items()},
            "reward": None if group.rewards is None else plain(group.rewards[i]),
            "advantage": None if group.advantages is None else plain(group.advantages[i]),
        }
        if group.grades:
            grade = group.grades[i]
            row |= {"extracted": plain(grade.extracted), "correct": grade.correct, "decided_by": grade.decided_by}
        yield row


def plain(value: Any) -> Any:
    """Turn NumPy values, tuples and whatever a task extracts into JSON values; non-finite numbers become null."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)
