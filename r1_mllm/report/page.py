# SPDX-License-Identifier: Apache-2.0
"""The report of a run, or of several: one HTML file that needs no network and no other file.

Everything but the table of all completions works without a script.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from . import browser, self_checks, several
from .charts import legend, line_chart, number, smooth, span_of
from .comparison import accuracy_table, gallery, shown
from .pictures import picture
from .run_files import Points, RunFiles, read_run

PANELS = (
    ("Reward", ("reward",)),
    ("Reward spread inside groups", ("reward_std",)),
    ("Groups whose rewards are all equal", ("frac_reward_zero_std",)),
    ("Completion length, tokens", ("completions/mean_length", "completions/max_length")),
    ("Completions cut at the limit", ("completions/clipped_ratio",)),
    ("KL to the reference model", ("kl",)),
    ("Entropy", ("entropy",)),
    ("Loss", ("loss",)),
    ("Gradient norm", ("grad_norm",)),
    ("Learning rate", ("learning_rate",)),
    ("Held-out accuracy, percent", ("eval/accuracy",)),
    ("Seconds per step", ("step_time",)),
    ("Tokens per second", ("tokens_per_second",)),
    ("Seconds by phase", ("time/generate", "time/update", "time/reference", "time/reward", "time/encode")),
    ("Ratio clipped, share of tokens", ("clip_ratio/region_mean",)),
    ("Peak memory, GB", ("memory/peak_gb",)),
    ("Operations per second and device, 1e12", ("perf/tflops",)),
    ("Share of peak arithmetic (MFU): steps, updates", ("perf/mfu", "perf/mfu_actor")),
)
SMOOTHING = (
    '<p class="choice">Smoothing: '
    '<label><input type="radio" name="smoothing" id="smooth-none"> none</label> '
    '<label><input type="radio" name="smoothing" checked> usual</label> '
    '<label><input type="radio" name="smoothing" id="smooth-more"> more</label></p>'
)
NUM_STEPS, NUM_GROUPS, NUM_COMPLETIONS = 3, 2, 8
"""How many steps, prompts per step and completions per prompt the page shows."""
MAX_TEXT = 1500
"""Characters of a prompt or completion."""


def _total_seconds(step_times: Sequence[tuple[float, float]]) -> float:
    """Sum (step, mean seconds a step since the line before) over a run that logs every so many steps."""
    total, before = 0.0, 0.0
    for step, mean in step_times:
        total, before = total + mean * (step - before), step
    return total


def write_report(
    run_dir: str | Path, out: str | Path | None = None, phrases: Sequence[str] = self_checks.PHRASES
) -> Path:
    """Write the page about a run and return its path.

    Args:
        out: RUN_DIR/report.html unless given.
        phrases: what counts as checking oneself (self_checks.py).
    """
    run = read_run(run_dir)
    return _written(render(run, phrases), Path(out) if out is not None else run.folder / "report.html")


def write_reports(
    run_dirs: Sequence[str | Path], out: str | Path | None = None, phrases: Sequence[str] = self_checks.PHRASES
) -> Path:
    """Write the page about one run, or one that compares several, beside the first unless `out` is given."""
    if len(run_dirs) == 1:
        return write_report(run_dirs[0], out, phrases)
    runs = [read_run(folder) for folder in run_dirs]
    names = several.distinct_names([run.folder for run in runs])
    runs = [dataclasses.replace(run, name=name) for run, name in zip(runs, names, strict=True)]
    return _written(render_several(runs), Path(out) if out is not None else runs[0].folder.parent / "comparison.html")


def _written(text: str, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(path.name + ".tmp")
    staged.write_text(text, encoding="utf-8")
    os.replace(staged, path)
    return path


def render(run: RunFiles, phrases: Sequence[str] = self_checks.PHRASES) -> str:
    """The page as text."""
    sections = [
        ("Accuracy before and after training", accuracy_table(run) if run.before or run.after else ""),
        ("Curves", curves(run)),
        ("Length and self-checks", self_checks.section(run, phrases)),
        ("Sample answers", gallery(run)),
        ("Completions during training", completions(run)),
        ("All completions", browser.section([run])),
        ("Settings", how_it_was_run([run])),
    ]
    return _page(run.name, tiles(run), sections)


def render_several(runs: Sequence[RunFiles]) -> str:
    """The page that compares runs, as text."""
    cards = "".join(_card(title, series) for title, series in several.overlaid(runs, PANELS))
    sections = [
        ("What they reached", several.table(runs)),
        ("Where their settings differ", several.differing_settings(runs)),
        ("Curves", f'{SMOOTHING}<div class="cards">{cards}</div>' if cards else ""),
        ("All completions", browser.section(runs)),
        ("Settings", how_it_was_run(runs)),
    ]
    return _page(f"{len(runs)} runs: {', '.join(run.name for run in runs)}", "", sections)


def how_it_was_run(runs: Sequence[RunFiles]) -> str:
    """The exact commands and the resolved configuration of each run."""
    parts = []
    for run in runs:
        name = f"{escape(run.name)}: " if len(runs) > 1 else ""
        if run.commands:
            lines = "\n".join(f"# {line['time']}, in {line['cwd']}\n{line['command']}" for line in run.commands)
            parts.append(f"<details open><summary>{name}command</summary><pre>{escape(lines)}</pre></details>")
        if run.settings:
            parts.append(f"<details><summary>{name}args.yaml</summary><pre>{escape(run.settings)}</pre></details>")
    return "".join(parts)


def _page(name: str, head: str, sections: Sequence[tuple[str, str]]) -> str:
    title = escape(name)
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    body = "".join(f"<section><h2>{name}</h2>{content}</section>\n" for name, content in sections if content)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title>\n<style>\n{style}</style></head>\n<body><main><h1>{title}</h1>{head}\n{body}"
        "</main></body></html>\n"
    )


def tiles(run: RunFiles) -> str:
    """The few numbers to look at first."""
    found: list[tuple[str, str, str]] = []
    results = [content for content in (run.before, run.after) if content]
    if results:
        accuracies = [_percent(content) for content in results]
        name = "held-out accuracy, before and after" if len(results) == 2 else "held-out accuracy"
        found.append((" &rarr; ".join(accuracies) + " %", name, f"{len(results[-1]['results'])} questions"))
    reward = run.series("reward")
    if reward:
        averaged = smooth(reward, span_of(len(reward)))
        found.append((number(averaged[-1][1]), "reward at the end, averaged", f"at first {number(reward[0][1])}"))
        found.append((number(reward[-1][0]), "training steps", ""))
    tokens, seconds = run.series("num_tokens"), run.series("step_time")
    if tokens:
        found.append((f"{tokens[-1][1]:,.0f}", "tokens", ""))
    if seconds:
        found.append((f"{_total_seconds(seconds) / 60:.1f} min", "spent in training steps", ""))
    cards = "".join(
        f'<div class="tile"><b>{value}</b>{escape(name)}<p class="quiet">{escape(note)}</p></div>'
        for value, name, note in found
    )
    return f'<div class="tiles">{cards}</div>'


def curves(run: RunFiles) -> str:
    """One card per quantity that was logged; the parts of the reward share one."""
    cards = "".join(_card(title, series) for title, series in panels(run))
    if not cards:
        return ""
    note = "Faint: each logged step. Strong: moving average over a twentieth of the run. Charts of several: averages."
    return f'{SMOOTHING}<p class="quiet">{note}</p><div class="cards">{cards}</div>'


def panels(run: RunFiles) -> list[tuple[str, dict[str, Points]]]:
    """What was logged, (title, {metric: points}) for each curve; the parts of the reward are one."""
    rewards = run.names("rewards/", "/mean")
    parts = {name.removeprefix("rewards/").removesuffix("/mean"): run.series(name) for name in rewards}
    found = [(title, {name: run.series(name) for name in names}) for title, names in PANELS]
    found.insert(1, ("Parts of the reward, unweighted", parts))
    kept = [(title, {name: points for name, points in series.items() if points}) for title, series in found]
    return [(title, series) for title, series in kept if series]


def _card(title: str, series: Mapping[str, Any]) -> str:
    if not series:
        return ""
    last = ""
    if len(series) == 1:
        (points,) = series.values()
        last = f'<span class="quiet">{number(points[0][1])} &rarr; {number(points[-1][1])}</span>'
    chart = line_chart(series, choices=True) + legend(list(series))
    return f'<div class="card"><header><h3>{escape(title)}</h3>{last}</header>{chart}</div>'


def _percent(content: Mapping[str, Any]) -> str:
    rows = content["results"]
    return f"{100 * sum(row['correct'] for row in rows) / len(rows):.1f}"


def completions(run: RunFiles) -> str:
    """Prompts of the first, middle and last logged step with what was sampled and what it earned."""
    steps = sorted({row["step"] for row in run.completions})
    chosen = sorted({steps[round(i * (len(steps) - 1) / (NUM_STEPS - 1))] for i in range(NUM_STEPS)}) if steps else []
    parts = []
    for step in chosen:
        rows = [row for row in run.completions if row["step"] == step]
        groups = [list(group) for _, group in groupby(rows, key=lambda row: (str(row.get("id")), row["prompt"]))]
        parts.extend(_group(group, run.folder) for group in groups[:NUM_GROUPS])
    return "".join(parts)


def _group(rows: Sequence[Mapping[str, Any]], folder: Path) -> str:
    first = rows[0]
    boxes = {"truth": first.get("ground_truth")}
    shown_picture = picture(first.get("image"), folder, boxes) if first.get("image") else ""
    names = list(dict.fromkeys(name for row in rows for name in row.get("rewards", {})))
    head = "".join(f'<th class="number">{escape(name)}</th>' for name in names)
    lines = "".join(_completion_line(row, names) for row in rows[:NUM_COMPLETIONS])
    table = f'<table><tr><th>completion</th><th>read</th>{head}<th class="number">advantage</th></tr>{lines}</table>'
    return (
        f"<details><summary>step {shown(first['step'])}, {shown(first.get('id'))}, expected "
        f"{shown(first.get('ground_truth'))}</summary><pre>{_cut(first['prompt'])}</pre>"
        f'<div class="group"><div>{shown_picture}</div>{table}</div></details>'
    )


def _completion_line(row: Mapping[str, Any], names: Sequence[str]) -> str:
    values = [row.get("rewards", {}).get(name) for name in names] + [row.get("advantage")]
    cells = "".join(f'<td class="number">{"&ndash;" if value is None else number(value)}</td>' for value in values)
    return f"<tr><td><pre>{_cut(row['completion'])}</pre></td><td>{shown(row.get('extracted'))}</td>{cells}</tr>"


def _cut(text: str) -> str:
    """Escaped text, at most MAX_TEXT characters."""
    return escape(text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " ...")
