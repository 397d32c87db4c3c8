# SPDX-License-Identifier: Apache-2.0
"""GRPO: sample a group of answers per question, score them, and make the better ones likelier.

`train` is the life of every sample in order: stream, encode, generate, score, compare, pack, update.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from ..config import GrpoConfig
from ..distributed import collectives
from ..evaluation.evaluate import EvalResult, evaluate, summarise
from ..records import Group
from ..runtime import NONFINITE, STOPPED, Stop
from . import durable, metrics
from .collect import Rollout, collect, sampling_metrics
from .optimizer import learning_rate
from .session import Session, greedy_engine, open_session
from .signals import StopRequest
from .step import (
    Packs,
    Stopwatch,
    Update,
    accumulate_gradients,
    add_reference,
    offenders,
    pack_groups,
)
from .tracking import completion_rows

MAX_SKIPPED, SKIP_WINDOW = 3, 100
"""--nonfinite skip leaves out at most so many steps in any so many."""


def train(config: GrpoConfig) -> None:
    """Run GRPO as configured, from the start or from the last checkpoint of the same run, to the end."""
    run = open_session(config)
    try:
        if run.step >= run.num_steps and (run.run.output_dir / "final").is_dir():
            run.tracker.message(f"{run.run.output_dir}: all {run.num_steps} steps are done")
            return
        with StopRequest() as stop:
            if run.step == 0:
                _evaluate(run, "before")
            _train(run, stop)
        _evaluate(run, "after")
        run.export()
    finally:
        run.close()


def _train(run: Session, stop: StopRequest) -> None:
    config = run.config
    while run.step < run.num_steps:
        watch, before = Stopwatch(), run.step
        rollout = collect(run, watch)
        seconds = rollout.seconds
        parts = [(groups, pack_groups(groups, run.visual_ids, config)) for groups in _mini_batches(run, rollout.groups)]
        for _, packs in parts:
            add_reference(packs, run.reference, config.rollout.temperature)
        seconds["time/reference"] = watch.lap()
        shared = _describe_rollout(run, rollout)
        for groups, packs in (parts * config.training.num_iterations)[: run.num_steps - run.step]:
            update = _update(run, groups, packs)
            seconds["time/update"] = watch.lap()
            _log(run, shared, update, seconds, watch.total())
            watch, seconds = Stopwatch(), {}
        if config.training.log_completions:
            run.tracker.completions(run.step, _of_all_ranks(rollout.sampled))
        _after_rollout(run, before, stop)


def _mini_batches(run: Session, groups: Sequence[Group]) -> list[Sequence[Group]]:
    """Share a rollout's groups out to optimizer steps."""
    size = run.config.training.mini_batch_size or len(groups)
    return [groups[start : start + size] for start in range(0, len(groups), size)]


def _update(run: Session, groups: Sequence[Group], packs: Packs) -> Update:
    """Take one optimizer step, or leave it out when a number is not finite."""
    update = accumulate_gradients(run.model, packs, run.optimizer, run.scale, run.config)
    if update.finite:
        rate = learning_rate(run.step, run.num_steps, run.config.optimizer)
        if run.scale.active:
            run.optimizer.scale_gradients(1.0 / run.scale.value)
        run.optimizer.step(rate, update.grad_norm)
        run.scale.good()
    else:
        run.optimizer.clear()
        if not run.scale.overflow():
            _report_nonfinite(run, groups, packs, update)
    run.step += 1
    return update


def _report_nonfinite(run: Session, groups: Sequence[Group], packs: Packs, update: Update) -> None:
    """Name the samples behind a non-finite number, then stop the run or count the step as left out."""
    found = offenders(run.model, groups, packs, run.visual_ids, run.config)
    rows = [row for group in found or groups for row in completion_rows(run.step, group)]
    rows = [row for part in collectives.gather_objects(rows) for row in part]
    path = run.run.output_dir / f"nonfinite-step-{run.step}.json"
    if run.place.rank == 0:
        durable.write_json(path, {"loss": str(update.loss), "grad_norm": str(update.grad_norm), "samples": rows})
    names = ", ".join(dict.fromkeys(f"{row['id']} ({row['image']})" for row in rows))
    what = f"step {run.step}: loss {update.loss}, gradient norm {update.grad_norm}; samples {names}; see {path}"
    run.skipped = [step for step in run.skipped if step > run.step - SKIP_WINDOW] + [run.step]
    if run.config.training.nonfinite == "stop":
        raise Stop(f"{what}. The weights are as before the step; --nonfinite skip leaves such steps out.", NONFINITE)
    if len(run.skipped) > MAX_SKIPPED:
        raise Stop(f"{what}. {len(run.skipped)} steps left out of the last {SKIP_WINDOW}: stopping.", NONFINITE)
    run.tracker.message(f"warning: left out {what}")


def _describe_rollout(run: Session, rollout: Rollout) -> dict[str, float]:
    """Metrics of the sampled groups of all ranks, used or not; counts their tokens."""
    columns = metrics.join(collectives.gather_objects(metrics.describe(rollout.sampled)))
    sampling = sampling_metrics(rollout)
    if sampling.get("dynamic_sampling/num_filled"):
        rounds, filled = (int(sampling[f"dynamic_sampling/{name}"]) for name in ("num_rounds", "num_filled"))
        run.tracker.message(f"warning: step {run.step + 1}: {filled} groups still unmixed after {rounds} rounds")
    num_prompts = columns["prompt_lengths"].size
    per_prompt = columns["lengths"].size / num_prompts
    if columns["not_scored"].all():
        run.tracker.message(f"warning: step {run.step + 1}: no reward judged any completion; nothing is learnt from it")
    tokens = int(columns["lengths"].sum() + columns["prompt_lengths"].sum() * per_prompt)
    run.num_tokens += tokens
    return metrics.of_rollout(columns) | sampling | {"num_tokens": run.num_tokens, "rollout_tokens": tokens}


def _of_all_ranks(groups: Sequence[Group]) -> list[Group]:
    """Collect every rank's groups for the log, without their pixels."""
    light = [dataclasses.replace(group, prompt=dataclasses.replace(group.prompt, pixels=None)) for group in groups]
    return [group for part in collectives.gather_objects(light) for group in part]


def _log(run: Session, rollout: dict[str, float], update: Update, seconds: dict[str, float], total: float) -> None:
    """Keep the step's metrics and write a line every logging_steps and at the end."""
    rows = metrics.join(collectives.gather_objects(update.rows))
    values = {
        "loss": update.loss,
        "grad_norm": update.grad_norm,
        "learning_rate": learning_rate(run.step - 1, run.num_steps, run.config.optimizer),
        "epoch": run.stream.epoch,
        "step_time": total,
        "tokens_per_second": rollout["rollout_tokens"] / total,
        "skipped_steps": len(run.skipped),
    }
    if run.scale.active:
        values["loss_scale"] = run.scale.value
    run.window.append(values | rollout | metrics.of_update(rows, run.config.objective) | seconds)
    if run.step % run.config.training.logging_steps == 0 or run.step == run.num_steps:
        run.tracker.log(run.step, metrics.average(run.window))
        run.window = []


def _after_rollout(run: Session, before: int, stop: StopRequest) -> None:
    """Evaluate and save when a rollout that began at step `before` makes it time; end when a signal asked for it."""
    training = run.config.training
    done = run.step >= run.num_steps
    if training.eval_steps and not done and _passed(before, run.step, training.eval_steps):
        _evaluate(run, "during")
    asked = any(collectives.gather_objects(stop.asked))
    if done or asked or _passed(before, run.step, training.save_steps):
        run.save()
    if asked and not done:
        raise Stop(f"stopped by a signal after step {run.step}; the same command continues", STOPPED)


def _passed(before: int, now: int, every: int) -> bool:
    """Say whether a multiple of `every` lies in (before, now]: rollouts may take several steps."""
    return every > 0 and now // every > before // every


def _evaluate(run: Session, when: str) -> EvalResult | None:
    """Answer the held-out examples greedily, shared out to the ranks; write eval_WHEN.json and a line of metrics."""
    if not run.eval_examples:
        return None
    config, world = run.config, run.place.world
    mine = run.eval_examples[run.place.rank :: world]
    rows: list[dict[str, Any]] = []
    if mine:
        result = evaluate(
            greedy_engine(run),
            run.processor,
            mine,
            reward_config=config.settled_reward,
            templates=run.templates,
            system_prompt=config.data.system_prompt,
            batch_size=max(1, config.rollout.rollout_batch_rows),
            max_new_tokens=config.rollout.max_completion_length,
        )
        rows = list(result.rows)
    parts = collectives.gather_objects(rows)
    joined = [parts[i % world][i // world] for i in range(len(run.eval_examples))]
    result = summarise(joined)
    if run.place.rank == 0:
        _write_evaluation(run, result, when)
    return result


def _write_evaluation(run: Session, result: EvalResult, when: str) -> None:
    folder = run.run.output_dir
    if when != "during":
        result.write(folder / f"eval_{when}.json", step=run.step)
    low, high = result.interval
    line = {"step": run.step, "accuracy": result.accuracy, "low": low, "high": high, "num": result.num}
    with (folder / "eval.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line | {"mean_score": result.mean_score}) + "\n")
    run.tracker.log(run.step, {"eval/accuracy": result.accuracy, "eval/score": result.mean_score})
