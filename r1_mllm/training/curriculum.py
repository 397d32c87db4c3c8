# SPDX-License-Identifier: Apache-2.0
"""Stages in a row, each a GRPO run of its own folder that starts from a checkpoint of the stage before.

    OUTPUT_DIR/STAGE/...            what `r1-mllm grpo` writes
    OUTPUT_DIR/curriculum.json      what became of the stages

The same command continues: a finished stage is passed over, the one that was interrupted resumes.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import DataConfig, GrpoConfig, flatten
from ..config.curriculum import CurriculumConfig, Stage
from ..data.mixture import load_examples
from ..data.mixture.overlap import refuse_overlap, refuse_repeated_files
from ..distributed import mesh
from ..records import Example
from ..report.run_files import read_jsonl
from ..runtime import DATA, OUTPUT, Stop
from . import checkpoint, durable, grpo

log = logging.getLogger(__name__)


def run(config: CurriculumConfig) -> None:
    """Carry out every stage that is not finished, in order."""
    check_data([stage.grpo.data for stage in config.stages])
    rank = mesh.init().rank
    before: Path | None = None
    facts: list[dict[str, Any]] = []
    for number, stage in enumerate(config.stages, start=1):
        settings = stage.grpo if before is None else starting_from(stage, before)
        before = Path(settings.training.output_dir)
        done = is_finished(settings) and not settings.training.overwrite_output_dir
        if rank == 0:
            state = "finished earlier" if done else f"starts from {settings.model.model_name_or_path}"
            print(f"stage {number} of {len(config.stages)}, {stage.name} ({'/'.join(settings.data.form)}): {state}")
        if not done:
            grpo.train(settings)
            gc.collect()  # the stage's model and optimizer, before the next ones are loaded
        facts.append(summary(stage, settings))
        if rank == 0:
            durable.write_json(Path(config.output_dir) / "curriculum.json", {"stages": facts})


def run_stage(config: GrpoConfig) -> None:
    """Carry out one stage alone, its data checked as in a whole curriculum."""
    check_data([config.data])
    grpo.train(config)


def check_data(stages: Sequence[DataConfig]) -> None:
    """Stop at a mixture that lists a file twice, and at test rows of any stage that any stage trains on."""
    load = functools.cache(_load)
    try:
        for data in stages:
            refuse_repeated_files(data)
        for held_out in stages:
            for data in stages:
                what = f"{data.dataset_name} and {held_out.eval_dataset_name or held_out.dataset_name}"
                refuse_overlap(load(data, "train"), load(held_out, "eval"), what)
    except ValueError as error:
        raise Stop(str(error), DATA) from error


def _load(data: DataConfig, split: str) -> Sequence[Example]:
    return load_examples(data, split, None)[0]


def starting_from(stage: Stage, before: Path) -> GrpoConfig:
    """Give a stage's settings with the checkpoint of the stage before in them."""
    chosen = best_checkpoint(before) if stage.start_from == "best" else before / "final"
    model = dataclasses.replace(stage.grpo.model, model_name_or_path=str(chosen))
    return dataclasses.replace(stage.grpo, model=model)


def best_checkpoint(folder: Path) -> Path:
    """Find the checkpoint of a finished stage with the best held-out accuracy, the later one of equals.

    Without an evaluation set it is the one with the best mean reward since the checkpoint before.
    """
    found = [
        (step, path) for step, path in checkpoint.checkpoints(folder) if durable.damage(path, hashes=False) is None
    ]
    if not found:
        raise Stop(f"{folder} has no checkpoint to start from; raise save_total_limit or lower save_steps", OUTPUT)
    scores = {row["step"]: row["accuracy"] for row in read_jsonl(folder / "eval.jsonl")}
    rewards = [(row["step"], row["reward"]) for row in read_jsonl(folder / "metrics.jsonl") if "reward" in row]
    values = {}
    for i, (step, path) in enumerate(found):  # newest first
        earlier = found[i + 1][0] if i + 1 < len(found) else 0
        since = [reward for logged, reward in rewards if earlier < logged <= step]
        value = scores.get(step) if scores else sum(since) / len(since) if since else None
        if value is not None:
            values[path] = (value, step)
    if not values:
        raise Stop(f"{folder}: no checkpoint was evaluated; set eval_steps to save_steps, or start_from: last", OUTPUT)
    return max(values, key=values.__getitem__)


def is_finished(config: GrpoConfig) -> bool:
    """Tell whether a stage's folder holds the finished run of these very settings."""
    folder = Path(config.training.output_dir)
    if not (folder / "run.json").is_file() or durable.damage(folder / "final", hashes=False) is not None:
        return False
    saved = json.loads((folder / "run.json").read_text("utf-8"))["config"]
    now = json.loads(json.dumps(flatten(config)))
    return all(saved.get(name) == value for name, value in now.items() if name not in checkpoint.FREE_KEYS)


def summary(stage: Stage, config: GrpoConfig) -> dict[str, Any]:
    """Say what a finished stage did: its start, steps, generated tokens, and accuracies in percent if evaluated."""
    folder = Path(config.training.output_dir)
    last = (read_jsonl(folder / "metrics.jsonl") or [{}])[-1]
    metrics = [row for row in read_jsonl(folder / "metrics.jsonl") if "num_generated_tokens" in row]
    evaluations = read_jsonl(folder / "eval.jsonl")
    return {
        "name": stage.name,
        "form": list(config.data.form),
        "model": config.model.model_name_or_path,
        "steps": last.get("step"),
        "generated_tokens": metrics[-1]["num_generated_tokens"] if metrics else None,
        "accuracy_before": evaluations[0]["accuracy"] if evaluations else None,
        "accuracy_after": evaluations[-1]["accuracy"] if evaluations else None,
    }
