# SPDX-License-Identifier: Apache-2.0
"""Every checkpoint of a run on every data set: which there are, a table of what they reach, and the curve."""

from __future__ import annotations

import csv
import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import EvalConfig
from ..report.curves import Curve, curve_chart
from ..runtime import USAGE, Stop
from .evaluate import EvalResult

_STEP = re.compile(r"checkpoint-(\d+)$")
COLUMNS = (
    "step",
    "checkpoint",
    "dataset",
    "domain",
    "task",
    "num",
    "num_correct",
    "accuracy",
    "low",
    "high",
    "mean_score",
)


@dataclass(frozen=True)
class Reached:
    """What one checkpoint reaches on one data set."""

    settings: EvalConfig
    dataset: str
    domain: str | None
    task: str
    result: EvalResult


def runs(config: EvalConfig) -> list[EvalConfig]:
    """The evaluation of each checkpoint, in the order of their steps; model_path, if given, comes first as step 0."""
    folder = Path(config.checkpoints)
    if not folder.is_dir():
        raise Stop(f"--checkpoints {folder}: no such folder", USAGE)
    found = sorted((int(match[1]), path) for path in folder.iterdir() if (match := _STEP.fullmatch(path.name)))
    if not found:
        raise Stop(f"--checkpoints {folder}: there is no checkpoint-N in it; give a run's output_dir", USAGE)
    label = config.model_name or folder.resolve().name
    start = [] if config.model_path is None else [(0, config.model_path)]
    return [
        dataclasses.replace(config, model_path=str(path), model_name=label, steps=step)
        for step, path in [*start, *found]
    ]


def write(config: EvalConfig, reached: Sequence[Reached]) -> tuple[Path, Path]:
    """Write LOGS_DIR/checkpoints_RUN_METHOD.csv and .svg, each in one rename; accuracies are percent."""
    label = (config.model_name or Path(config.checkpoints).resolve().name).lower().replace("/", "_")
    table = Path(config.logs_dir) / f"checkpoints_{label}_{config.method}.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    staged = table.with_suffix(".tmp")
    with staged.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_line(entry) for entry in reached)
    os.replace(staged, table)
    picture = table.with_suffix(".svg")
    staged.write_text(_picture(label, reached), encoding="utf-8")
    os.replace(staged, picture)
    return table, picture


def _line(entry: Reached) -> list[object]:
    settings, result = entry.settings, entry.result
    low, high = result.interval
    start = [settings.steps, settings.model_path, entry.dataset, entry.domain or "", entry.task]
    shares = [round(value, 4) for value in (result.accuracy, low, high)]
    return [*start, result.num, result.num_correct, *shares, round(result.mean_score, 6)]


def _picture(label: str, reached: Sequence[Reached]) -> str:
    curves = []
    for name in dict.fromkeys(entry.dataset for entry in reached):
        of_set = [entry for entry in reached if entry.dataset == name]
        domain = of_set[0].domain
        title = f"{name} ({domain}-of-domain)".replace("in-of", "in") if domain else name
        points = [(float(entry.settings.steps), entry.result.accuracy) for entry in of_set]
        curves.append(Curve(title, points, [entry.result.interval for entry in of_set], dashed=domain == "out"))
    return curve_chart(f"{label}: accuracy, percent, with 95 % intervals", "training step", curves)
