# SPDX-License-Identifier: Apache-2.0
"""A curriculum against open questions alone: what `r1-mllm curriculum compare` left for several seeds, joined.

    FOLDER/seed-N/ARM/curriculum.json, FOLDER/seed-N/ARM/STAGE/{eval_after.json, eval.jsonl, metrics.jsonl}

Written: table.md, curve.csv and curve.svg in FOLDER.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .charts import COLORS, line_chart
from .comparison import paired
from .intervals import paired_difference, wilson
from .run_files import Points, read_jsonl

ARMS = ("curriculum", "open_steps", "open_tokens")
"""The curriculum; open questions for as many steps; open questions until as many tokens are generated."""
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Number of seeds -> 97.5 % point of Student's t with one degree of freedom less."""
_STYLE = (
    "<style>text{font:11px sans-serif;fill:#444}.grid{stroke:#ddd;stroke-width:1}svg{background:#fff}</style>"
    '<rect width="100%" height="100%" fill="#fff"/>'
)


@dataclass(frozen=True)
class Outcome:
    """One arm of one seed."""

    seed: int
    arm: str
    rows: Sequence[Mapping[str, Any]]
    """Graded held-out questions at the end."""
    steps: int
    tokens: int
    """Generated, all stages."""
    curve: Sequence[Mapping[str, Any]]
    """seed, arm, stage, step (over all stages), generated_tokens, accuracy, low, high per evaluation; percent."""

    @property
    def accuracy(self) -> float:
        return 100.0 * sum(row["correct"] for row in self.rows) / len(self.rows)


def write_comparison(folder: str | Path) -> list[Path]:
    """Write table.md, curve.csv and curve.svg; ValueError for a folder without a finished comparison."""
    folder = Path(folder)
    outcomes = read_outcomes(folder)
    table, rows = folder / "table.md", folder / "curve.csv"
    table.write_text(as_table(outcomes), encoding="utf-8")
    points = [point for outcome in outcomes for point in outcome.curve]
    with rows.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(points[0]))
        writer.writeheader()
        writer.writerows(points)
    chart = folder / "curve.svg"
    chart.write_text(as_chart(outcomes), encoding="utf-8")
    return [table, rows, chart]


def read_outcomes(folder: Path) -> list[Outcome]:
    """Read the seeds whose three arms are finished; a seed that is not is an error."""
    found = []
    for seed_dir in sorted(folder.glob("seed-*"), key=lambda path: int(path.name.removeprefix("seed-"))):
        missing = [arm for arm in ARMS if not (seed_dir / arm / "curriculum.json").is_file()]
        if missing:
            raise ValueError(f"{seed_dir}: {', '.join(missing)} is not finished; the same command continues it")
        parts = {arm: _stages(seed_dir / arm) for arm in ARMS}
        parts["open_tokens"] = [*parts["open_steps"][:-1], *parts["open_tokens"]]
        seed = int(seed_dir.name.removeprefix("seed-"))
        found += [_outcome(seed, arm, stages) for arm, stages in parts.items()]
    if not found:
        raise ValueError(f"{folder} holds no seed-N; run `r1-mllm curriculum compare` first")
    return found


def _stages(arm: Path) -> list[tuple[Path, Mapping[str, Any]]]:
    listed = json.loads((arm / "curriculum.json").read_text("utf-8"))["stages"]
    return [(arm / stage["name"], stage) for stage in listed]


def _outcome(seed: int, arm: str, stages: Sequence[tuple[Path, Mapping[str, Any]]]) -> Outcome:
    curve: list[dict[str, Any]] = []
    steps = tokens = 0
    for folder, stage in stages:
        logged = [row for row in read_jsonl(folder / "metrics.jsonl") if "num_generated_tokens" in row]
        generated = {row["step"]: row["num_generated_tokens"] for row in logged}
        for row in read_jsonl(folder / "eval.jsonl"):
            so_far = 0 if row["step"] == 0 else generated.get(row["step"])
            point = {"seed": seed, "arm": arm, "stage": stage["name"], "step": steps + row["step"]}
            point["generated_tokens"] = "" if so_far is None else tokens + int(so_far)
            curve.append(point | {name: round(row[name], 3) for name in ("accuracy", "low", "high")})
        steps, tokens = steps + int(stage["steps"]), tokens + int(stage["generated_tokens"])
    rows = json.loads((stages[-1][0] / "eval_after.json").read_text("utf-8"))["results"]
    return Outcome(seed, arm, rows, steps, tokens, curve)


def as_table(outcomes: Sequence[Outcome]) -> str:
    """Accuracies with Wilson intervals, then the curriculum's paired difference to each control, as Markdown."""
    lines = ["| seed | arm | steps | generated tokens | accuracy % | 95 % interval |", "|---|---|---|---|---|---|"]
    for outcome in outcomes:
        low, high = wilson(sum(row["correct"] for row in outcome.rows), len(outcome.rows))
        lines.append(
            f"| {outcome.seed} | {outcome.arm} | {outcome.steps} | {outcome.tokens} | {outcome.accuracy:.1f} | "
            f"{100 * low:.1f} to {100 * high:.1f} |"
        )
    lines += ["", "| curriculum minus | seed | points | 95 % interval | of |", "|---|---|---|---|---|"]
    for control in ARMS[1:]:
        lines += _differences(outcomes, control)
    return "\n".join(lines) + "\n"


def _differences(outcomes: Sequence[Outcome], control: str) -> list[str]:
    """Rows of the table: per seed and pooled over the same questions, then over the seeds' means."""
    by_arm = {(outcome.seed, outcome.arm): outcome for outcome in outcomes}
    seeds = sorted({outcome.seed for outcome in outcomes})
    lines, pooled, means = [], ([], []), []
    for seed in seeds:
        pairs = paired(by_arm[seed, control].rows, by_arm[seed, ARMS[0]].rows)
        old, new = [row["correct"] for row, _ in pairs], [row["correct"] for _, row in pairs]
        pooled[0].extend(old)
        pooled[1].extend(new)
        mean, low, high = paired_difference(old, new)
        means.append(mean)
        lines.append(_line(control, str(seed), mean, low, high, f"{len(pairs)} questions"))
    if len(seeds) > 1:
        lines.append(_line(control, "pooled", *paired_difference(*pooled), f"{len(pooled[0])} questions"))
        lines.append(_line(control, "mean", *over_seeds(means), f"{len(seeds)} seeds (Student's t)"))
    return lines


def _line(control: str, seed: str, mean: float, low: float, high: float, of: str) -> str:
    return f"| {control} | {seed} | {100 * mean:+.1f} | {100 * low:+.1f} to {100 * high:+.1f} | {of} |"


def over_seeds(means: Sequence[float]) -> tuple[float, float, float]:
    """Give (mean, low, high) of 2 to 10 seeds' values: Student's 95 % interval, in the values' unit."""
    if len(means) not in T_95:
        raise ValueError(f"{len(means)} seeds: an interval over seeds needs 2 to {max(T_95)}")
    mean = math.fsum(means) / len(means)
    variance = math.fsum((value - mean) ** 2 for value in means) / (len(means) - 1)
    half = T_95[len(means)] * math.sqrt(variance / len(means))
    return mean, mean - half, mean + half


def as_chart(outcomes: Sequence[Outcome]) -> str:
    """Held-out accuracy over the optimizer step, the mean of the seeds that were evaluated there, as an SVG file."""
    series: dict[str, Points] = {}
    for arm in ARMS:
        latest = {
            (point["seed"], point["step"]): point["accuracy"] for o in outcomes if o.arm == arm for point in o.curve
        }
        by_step: dict[int, list[float]] = {}
        for (_, step), accuracy in latest.items():
            by_step.setdefault(step, []).append(accuracy)
        most = max(len(values) for values in by_step.values())
        series[arm] = sorted((step, sum(v) / len(v)) for step, v in by_step.items() if len(v) == most)
    keys = "".join(
        f'<text x="{60 + 110 * i}" y="22" style="fill:{color};font-weight:bold">{name}</text>'
        for i, (name, color) in enumerate(zip(series, COLORS, strict=False))
    )
    chart = line_chart(series).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    head, rest = chart.split(">", 1)
    return f"{head}>{_STYLE}{rest.removesuffix('</svg>')}{keys}</svg>\n"
