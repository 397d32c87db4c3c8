# SPDX-License-Identifier: Apache-2.0
"""The trackers people know, each behind the same three calls: numbers, pictures with texts, the end."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .gallery import Shown


@dataclass(frozen=True)
class Outlet:
    """One tracker, opened."""

    write: Callable[[int, Mapping[str, float]], None]
    """(step, name -> number)."""
    close: Callable[[], None]
    show: Callable[[int, Sequence[Shown]], None] = lambda step, samples: None
    """(step, sampled answers as pictures and texts)."""


PICTURES, TEXTS = "pictures", "answers"
"""Two names: VisualDL's reader takes everything under one name for the kind that came first."""
INSTALL = {
    "visualdl": 'pip install "visualdl>=2.5.3,<3"',
    "tensorboard": 'pip install "tensorboardX>=2.6"',
    "swanlab": 'pip install "swanlab>=0.10"',
    "wandb": 'pip install "wandb>=0.19"',
}


def _visualdl(folder: Path) -> Outlet:
    from visualdl import LogWriter  # optional, and 0.4 s that only a run with this tracker should pay

    earlier = sorted(folder.glob("vdlrecords.*.log"), key=lambda path: path.stat().st_mtime)
    name = earlier[-1].name if earlier else ""  # of the run's part before: its file goes on
    with contextlib.redirect_stdout(None):  # it prints that the file is there
        writer = LogWriter(logdir=str(folder), file_name=name, flush_secs=5)

    def write(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(tag=name, value=value, step=step)

    def show(step: int, samples: Sequence[Shown]) -> None:
        for number, sample in enumerate(samples):
            if sample.picture is not None:
                writer.add_image(tag=f"{PICTURES}/{number}", img=sample.picture, step=step)
            writer.add_text(tag=f"{TEXTS}/{number}", text_string=sample.text, step=step)

    return Outlet(write, writer.close, show)


def _tensorboard(folder: Path) -> Outlet:
    writer = importlib.import_module("tensorboardX").SummaryWriter(logdir=str(folder))

    def write(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    def show(step: int, samples: Sequence[Shown]) -> None:
        for number, sample in enumerate(samples):
            if sample.picture is not None:
                writer.add_image(f"{PICTURES}/{number}", sample.picture, step, dataformats="HWC")
            writer.add_text(f"{TEXTS}/{number}", sample.text, step)

    return Outlet(write, writer.close, show)


def _swanlab(folder: Path) -> Outlet:
    module = importlib.import_module("swanlab")
    module.init(project="r1_mllm", logdir=str(folder), mode="offline")
    return Outlet(lambda step, values: module.log(dict(values), step=step), module.finish, _captioned(module))


def _wandb(folder: Path) -> Outlet:
    module = importlib.import_module("wandb")
    folder.mkdir(parents=True, exist_ok=True)
    module.init(project="r1_mllm", dir=str(folder))
    return Outlet(lambda step, values: module.log(dict(values), step=step), module.finish, _captioned(module))


def _captioned(module: Any) -> Callable[[int, Sequence[Shown]], None]:
    """Both have `Image(array, caption=...)` and take it where numbers go."""

    def show(step: int, samples: Sequence[Shown]) -> None:
        found = {
            f"{PICTURES}/{number}": module.Image(sample.picture, caption=sample.text)
            for number, sample in enumerate(samples)
            if sample.picture is not None
        }
        if found:
            module.log(found, step=step)

    return show


OPENERS: dict[str, Callable[[Path], Outlet]] = {
    "visualdl": _visualdl,
    "tensorboard": _tensorboard,
    "swanlab": _swanlab,
    "wandb": _wandb,
}
