# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm passk`: pass@k of recorded answers, or of answers sampled here, as a table and a picture."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .. import runtime
from ..config import EvalConfig, RewardConfig, RolloutConfig
from ..config.flags import parse
from ..curriculum import formed
from ..report.curves import Curve, curve_chart
from ..rewards.judge import Item, Judge, JudgeConfig
from ..tasks.templates import load_templates
from . import shards
from .command import DataSet, find_model, load_sets, set_fingerprint, settings_of
from .evaluate import EvalSettings
from .passk import Estimate, Problem, table
from .recorded import Row, read_recorded
from .sampling import Sampling, collect
from .scoring import grade_line
from .shards import Team, forget

FORMS = ("judge", "choice", "multi_choice")
"""Tasks that are forms of a question."""
COLUMNS = ("task", "form", "k", "num_problems", "n_min", "n_max", "pass_at_k", "low", "high")


@dataclass(frozen=True)
class PasskSettings:
    input_file: str | None = None
    """JSON or JSONL of recorded answers: `samples` per row, or one answer per row with an `id`; None: sample here."""
    k_values: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of answers k that pass@k is estimated for."""
    num_generations: int = 8
    """Answers sampled per problem (n); at least the largest k."""
    temperature: float = 1.0
    """What logits are divided by before sampling; 0 means greedy."""
    top_p: float = 1.0
    """Sample among the likeliest tokens that make up this share of the probability; 1.0 switches it off."""
    top_k: int = 0
    """0 switches it off."""
    form: tuple[Literal["open", "judge", "choice"], ...] = ("open",)
    """Ways in which each question is asked, counted apart; of recorded answers: the form of rows that do not say it."""
    regrade: bool = False
    """Grade recorded answers again where their rows have a verdict (`correct`) already."""
    judge_threshold: float = 85.0
    """Points above which the judge, if there is one, counts an answer as right."""
    num_bootstrap: int = 2000
    """Resamples of the problems behind an interval."""
    output_dir: str = "logs/passk"
    """Folder for the table, the picture and the answers."""


@dataclass(frozen=True)
class PasskConfig:
    """Everything `r1-mllm passk` can be told."""

    passk: PasskSettings = field(default_factory=PasskSettings)
    eval: EvalConfig = field(default_factory=EvalConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)


def main(argv: Sequence[str]) -> None:
    """Run the command as the command line says."""
    run(parse(PasskConfig, argv, "r1-mllm passk", "Estimate pass@k from several answers per problem."))


def run(config: PasskConfig) -> list[Estimate]:
    """Count right answers, estimate, and write OUTPUT_DIR/passk.csv, .svg and .json; other ranks return nothing."""
    try:
        rows = read_recorded(Path(config.passk.input_file)) if config.passk.input_file else _sampled(_checked(config))
        if rows is None:
            return []
        problems = count(rows, config)
        estimates = table(problems, config.passk.k_values, config.passk.num_bootstrap, config.eval.seed)
    except ValueError as error:
        raise runtime.Stop(str(error), runtime.DATA) from error
    _write(config, problems, estimates)
    return estimates


def count(rows: Sequence[tuple[Row, str]], config: PasskConfig) -> list[Problem]:
    """Turn rows with their samples (and the place each row is from) into numbers of answers and of right ones."""
    verdicts = _judged(rows, config) if config.judge.judge_url else [_graded(row, at, config) for row, at in rows]
    problems = []
    for (row, where), found in zip(rows, verdicts, strict=True):
        task, form = _task_and_form(row, where, config)
        problems.append(Problem(str(row.get("id", where)), task, form, len(found), sum(found)))
    return problems


def _graded(row: Row, where: str, config: PasskConfig) -> list[bool]:
    """Verdicts on a row's samples: those recorded, else those of the task's own grading."""
    task, form = _task_and_form(row, where, config)
    limits = RewardConfig(iou_threshold=config.eval.iou_threshold)
    found = []
    for entry in row["samples"]:
        verdict = None if config.passk.regrade else entry.get("correct")
        if verdict is None:
            line = {**row, **entry}
            graded = grade_line(form if form in FORMS else task, line, where, limits, config.eval.method)
            verdict = graded.correct
        if verdict not in (0, 1):
            raise ValueError(f"{where}: correct {verdict!r} is neither 0 nor 1")
        found.append(bool(verdict))
    return found


def _judged(rows: Sequence[tuple[Row, str]], config: PasskConfig) -> list[list[bool]]:
    """Verdicts of the judge; an answer it could not judge counts neither as right nor as wrong."""
    items = [
        Item(str(row.get("question", "")), str(row.get("ground_truth", "")), entry["model_output"], _pictures(row))
        for row, _ in rows
        for entry in row["samples"]
    ]
    judge = Judge(config.judge, Path(config.passk.output_dir) / "judged.jsonl")
    scores = iter([verdict.score for verdict in judge.scores(items, progress=True)])
    found = [[next(scores) for _ in row["samples"]] for row, _ in rows]
    return [[score > config.passk.judge_threshold for score in line if score is not None] for line in found]


def _pictures(row: Row) -> tuple[str, ...]:
    image = row.get("image")
    return tuple(path for path in (image if isinstance(image, list) else [image]) if isinstance(path, str))


def _task_and_form(row: Row, where: str, config: PasskConfig) -> tuple[str, str]:
    task, form = row.get("task") or config.eval.task, row.get("form") or config.passk.form[0]
    if task in (*FORMS, "open"):  # CR's --task_type
        task, form = row.get("task", task), task
    if not isinstance(task, str):
        raise ValueError(f"{where}: no task: pass --task, or add `task` to the row")
    return task, form


# answers sampled here ------------------------------------------------------------------------------------------------


def _checked(config: PasskConfig) -> PasskConfig:
    settings = config.passk
    largest = max(settings.k_values, default=1)
    if largest > settings.num_generations:
        raise ValueError(
            f"k={largest} is more than --num_generations {settings.num_generations}: pass@{largest} needs as many "
            "answers per problem"
        )
    if settings.temperature <= 0:
        raise ValueError("--temperature 0 gives the same answer every time; pass@k needs it above 0")
    if config.eval.model_path is None:
        raise runtime.Stop("--model_path MODEL is missing (or --input_file FILE with recorded answers)")
    return config


def _sampled(config: PasskConfig) -> list[tuple[Row, str]] | None:
    """Sample what is not sampled yet; None in processes other than the first."""
    folder = Path(config.passk.output_dir)
    sets = [_in_form(config, data_set, form) for data_set in load_sets(config.eval) for form in config.passk.form]
    templates = load_templates(config.eval.prompt_template)
    if config.eval.overwrite:
        forget([_samples_path(config, data_set) for data_set in sets])
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, overwrite=False))
    told = dataclasses.replace(config, eval=dataclasses.replace(config.eval, num_processes=1))
    with shards.start(config.eval.num_processes, "passk", told, folder) as team:
        model_dir = find_model(config.eval)
        asking = _Asking(config, templates, model_dir, team)
        found = [asking.rows(data_set) for data_set in sets]
    if team.rank != 0:
        return None
    return [
        (row, f"{data_set.path} ({row['where']})") for data_set, rows in zip(sets, found, strict=True) for row in rows
    ]


def _in_form(config: PasskConfig, data_set: DataSet, form: str) -> DataSet:
    """A data set whose open questions are asked in a form; rows that are a judge or a choice already stay so."""
    if form == "open":
        return data_set
    examples = formed(data_set.examples, [form], config.eval.seed)
    return dataclasses.replace(data_set, name=f"{data_set.name}_{form}", examples=examples)


def _samples_path(config: PasskConfig, data_set: DataSet) -> Path:
    settings = settings_of(config.eval, data_set)
    label = (settings.model_name or Path(settings.model_path).name).lower().replace("/", "_")
    return Path(config.passk.output_dir) / f"samples_{data_set.name}_{label}_{settings.method}.json"


@dataclass
class _Asking:
    """The model of a command, loaded when first needed."""

    config: PasskConfig
    templates: Any
    model_dir: Path
    team: Team
    loaded: Any = None

    def load(self) -> Any:
        if self.loaded is None:
            runtime.require_paddle()
            from .load import load  # after require_paddle(): Paddle reads its environment when it loads

            chosen = self.config.passk
            rollout = RolloutConfig(
                max_completion_length=self.config.eval.max_new_tokens,
                temperature=chosen.temperature,
                top_p=chosen.top_p,
                top_k=chosen.top_k,
            )
            self.loaded = load(self.model_dir, self.config.eval, rollout)
        return self.loaded

    def rows(self, data_set: DataSet) -> list[Row] | None:
        settings, chosen = settings_of(self.config.eval, data_set), self.config.passk
        asked = EvalSettings.of(settings, self.templates)
        more = {name: getattr(chosen, name) for name in ("num_generations", "temperature", "top_p", "top_k")}
        key = set_fingerprint(
            settings,
            data_set,
            self.templates,
            self.model_dir,
            name=data_set.name,
            batch_size=settings.batch_size,
            sampling=more,
        )
        path = _samples_path(self.config, data_set)
        limits = RewardConfig(iou_threshold=settings.iou_threshold)
        sampling = Sampling(asked, chosen.num_generations, reward_config=limits)
        print(f"{data_set.name}: {chosen.num_generations} answers to each of {len(data_set.examples)} questions")
        found = collect(path, key, data_set.examples, self.team, sampling, self.load)
        return None if found is None else [{**row, "dataset": data_set.name} for row in found]


# what is written -----------------------------------------------------------------------------------------------------


def _write(config: PasskConfig, problems: Sequence[Problem], estimates: Sequence[Estimate]) -> None:
    folder = Path(config.passk.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        [*dataclasses.astuple(entry)[:6], *(_rounded(v) for v in (entry.value, entry.low, entry.high))]
        for entry in estimates
    ]
    with (folder / "passk.csv.tmp").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(lines)
    os.replace(folder / "passk.csv.tmp", folder / "passk.csv")
    content = {
        "settings": dataclasses.asdict(config),
        "table": [dict(zip(COLUMNS, line, strict=True)) for line in lines],
        "problems": [dataclasses.asdict(problem) for problem in problems],
    }
    _replace(folder / "passk.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    _replace(folder / "passk.svg", picture(estimates))
    for line in lines:
        value, low, high = line[6:]
        interval = "" if low is None else f" (95 % {100 * low:.2f} to {100 * high:.2f})"
        print(f"{line[0]}, {line[1]}: pass@{line[2]} {100 * value:.2f}%{interval}, {line[3]} problems, n {line[4]}")
    print(f"{folder / 'passk.csv'}, passk.svg and passk.json are written")


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _replace(path: Path, text: str) -> None:
    staged = path.with_name(path.name + ".tmp")
    staged.write_text(text, encoding="utf-8")
    os.replace(staged, path)


def picture(estimates: Sequence[Estimate]) -> str:
    """The estimates over k, in doublings, one curve per task and form."""
    curves = []
    for task, form in dict.fromkeys((entry.task, entry.form) for entry in estimates):
        members = sorted((e for e in estimates if (e.task, e.form) == (task, form)), key=lambda entry: entry.k)
        points = [(float(entry.k), entry.value) for entry in members]
        bounds = [(entry.low, entry.high) for entry in members if not math.isnan(entry.low)]
        curves.append(Curve("all problems" if task == "all" else f"{task}, {form}", points, bounds))
    return curve_chart("pass@k, with 95 % bootstrap intervals over problems", "k", curves, log_x=True)
