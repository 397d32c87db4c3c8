# SPDX-License-Identifier: Apache-2.0
"""eval/test_math.py and `r1-mllm eval math`: pass@1 on mathematics, the mean over several answers per problem.

Layouts are those of tasks/layouts.py: AIME, MATH, GPQA, MathVision, MathVista, MathVerse, verl's parquet ...
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import runtime
from ..config import EvalConfig, RewardConfig, RolloutConfig
from ..records import Example
from ..report.intervals import wilson_of_means
from ..tasks.templates import Templates, load_templates
from . import shards
from .command import DataSet, call, find_model, load_sets, set_fingerprint, settings_of
from .evaluate import EvalSettings, write_results
from .sampling import Sampling, collect

MAX_GROUPS = 30
"""Columns with more values than this tell nothing as a table."""
COLUMNS = ("subject", "level", "category", "group", "problem_version", "question_type", "answer_type", "year")
NESTED = ("subject", "subfield", "task", "category", "source", "grade")
"""Keys of the column `metadata` (MathVista, MathVerse)."""


@dataclass(frozen=True)
class MathSettings:
    num_samples: int = 8
    """Answers per problem; pass@1 is the mean over them."""
    temperature: float = 0.6
    """0 answers greedily; then one answer per problem is enough."""
    top_p: float = 1.0
    """Sample among the likeliest tokens that make up this share of the probability; 1.0 switches it off."""
    top_k: int = 0
    """0 switches it off."""


def _defaults() -> EvalConfig:
    return EvalConfig(task="math_boxed", test_datasets=(), sample_num=0, max_new_tokens=4096, results_name="math")


@dataclass(frozen=True)
class MathConfig:
    """Everything eval/test_math.py can be told."""

    math: MathSettings = field(default_factory=MathSettings)
    eval: EvalConfig = field(default_factory=_defaults)

    def __post_init__(self) -> None:
        if self.math.num_samples < 1 or self.math.temperature < 0:
            raise ValueError("num_samples must be at least 1 and temperature not negative")


def main(
    description: str, argv: Sequence[str] | None = None, words: Sequence[str] = (), prog: str | None = None
) -> None:
    """Run eval/test_math.py or `r1-mllm eval math`; `words` are flags that stand before those typed."""
    call(run, MathConfig, description, argv, words, prog)


def run(config: MathConfig) -> list[dict[str, Any]]:
    """Sample, grade and sum up every data set; the results files' content without rows, in order."""
    if config.eval.model_path is None or not config.eval.test_datasets:
        raise runtime.Stop("--model_path MODEL and --test_datasets NAME ... are needed")
    if config.eval.checkpoints is not None:
        raise runtime.Stop("--checkpoints is for `r1-mllm eval`; here each checkpoint is a --model_path of its own")
    try:
        sets, templates = load_sets(config.eval), load_templates(config.eval.prompt_template)
    except ValueError as error:
        raise runtime.Stop(str(error), runtime.DATA) from error
    told = dataclasses.replace(config, eval=dataclasses.replace(config.eval, num_processes=1))
    with shards.start(config.eval.num_processes, "eval math", told, Path(config.eval.logs_dir)) as team:
        try:
            model_dir = find_model(config.eval)
        except (ValueError, OSError) as error:
            raise runtime.Stop(str(error), runtime.MODEL) from error
        asking = _Asking(config, templates, model_dir, team)
        found = [asking.sampled(data_set) for data_set in sets]
    if team.rank != 0:
        return []
    return [_written(config, data_set, rows, model_dir) for data_set, rows in zip(sets, found, strict=True)]


@dataclass
class _Asking:
    """The model of an evaluation, loaded when first needed."""

    config: MathConfig
    templates: Templates
    model_dir: Path
    team: shards.Team
    loaded: Any = None

    def load(self) -> Any:
        if self.loaded is None:
            from .load import load  # after find_model(): Paddle reads its environment when it loads

            chosen, length = self.config.math, self.config.eval.max_new_tokens
            sampler = {"temperature": chosen.temperature, "top_p": chosen.top_p, "top_k": chosen.top_k}
            self.loaded = load(self.model_dir, self.config.eval, RolloutConfig(max_completion_length=length, **sampler))
        return self.loaded

    def sampled(self, data_set: DataSet) -> list[dict[str, Any]] | None:
        """Sample what is not sampled yet; None in processes other than the first."""
        settings, chosen = settings_of(self.config.eval, data_set), self.config.math
        asked = EvalSettings.of(settings, self.templates)
        more = {"batch_size": settings.batch_size, "sampling": dataclasses.asdict(chosen)}
        key = set_fingerprint(settings, data_set, self.templates, self.model_dir, **more)
        path = results_path(self.config, data_set, self.model_dir).with_suffix(".samples.json")
        if settings.overwrite and self.team.world == 1:
            path.unlink(missing_ok=True)
        print(f"{data_set.name}: {chosen.num_samples} answers to each of {len(data_set.examples)} problems")
        sampling = Sampling(asked, chosen.num_samples, reward_config=RewardConfig())
        return collect(path, key, data_set.examples, self.team, sampling, self.load)


def results_path(config: MathConfig, data_set: DataSet, model_dir: Path) -> Path:
    """LOGS/math_DATASET_MODEL_METHOD_STEPS.json with the model's label in lower case."""
    settings = config.eval
    label = (settings.model_name or model_dir.name).lower().replace("/", "_")
    name = f"{settings.results_name}_{data_set.name}_{label}_{settings.method}_{settings.steps}.json"
    return Path(settings.logs_dir) / name


def _written(config: MathConfig, data_set: DataSet, rows: list[dict[str, Any]], model_dir: Path) -> dict[str, Any]:
    results = [
        {**row, "pass_at_1": share(row), "groups": groups_of(example)}
        for row, example in zip(rows, data_set.examples, strict=True)
    ]
    about = {
        **summary(results),
        "num_samples": config.math.num_samples,
        "temperature": config.math.temperature,
        "dataset": data_set.name,
        "task": data_set.task,
        "settings": {**dataclasses.asdict(config.eval), **dataclasses.asdict(config.math)},
    }
    path = results_path(config, data_set, model_dir)
    write_results(path, about, results)
    low, high = about["interval"]
    num = f"{len(results)} problems x {config.math.num_samples}"
    print(f"pass@1 of {data_set.name}: {about['accuracy']:.2f}% ({num}, 95% {low:.2f} to {high:.2f})")
    for column, parts in about["by"].items():
        shown = ", ".join(f"{name} {part['accuracy']:.1f}% of {part['num']}" for name, part in parts.items())
        print(f"  by {column}: {shown}")
    print(f"Results saved to {path}")
    return about


def share(row: Mapping[str, Any]) -> float:
    """Share of a problem's answers that are right, 0..1; a problem without answers counts as wrong."""
    verdicts = [sample["correct"] for sample in row["samples"]]
    return sum(verdicts) / len(verdicts) if verdicts else 0.0


def groups_of(example: Example) -> dict[str, str]:
    """What a problem belongs to: its subject, level ... and those of its metadata, by column."""
    flat = {name: example.meta.get(name) for name in COLUMNS}
    nested = example.meta.get("metadata")
    if isinstance(nested, Mapping):
        flat |= {name: nested.get(name) for name in NESTED if nested.get(name)}
    return {name: str(value) for name, value in flat.items() if value is not None and value != ""}


def summary(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum up rows with `pass_at_1` and `groups`: percent with 95 % intervals over problems, in all and by column."""
    by: dict[str, dict[str, Any]] = {}
    for column in dict.fromkeys(name for row in results for name in row["groups"]):
        values = sorted({row["groups"].get(column) for row in results} - {None})
        if 1 < len(values) <= MAX_GROUPS:
            by[column] = {
                value: _mean([row["pass_at_1"] for row in results if row["groups"].get(column) == value])
                for value in values
            }
    finished = [sample["finished"] for row in results for sample in row["samples"]]
    cut = 1.0 - sum(finished) / len(finished) if finished else 0.0
    return {**_mean([row["pass_at_1"] for row in results]), "cut_at_length": cut, "by": by}


def _mean(shares: Sequence[float]) -> dict[str, Any]:
    low, high = wilson_of_means(shares)
    return {"accuracy": 100 * sum(shares) / len(shares), "interval": [100 * low, 100 * high], "num": len(shares)}
