# SPDX-License-Identifier: Apache-2.0
"""What every kind of training does around its own steps: begin or continue, take or leave out a step, log, evaluate,
save, end.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..distributed import collectives, heartbeat
from ..evaluation.evaluate import EvalResult, evaluate, summarise
from ..report.page import write_report
from ..runtime import DATA, DISK, NONFINITE, STOPPED, Stop
from . import durable, faults, metrics, status
from .memory import peak_gb
from .optimizer import learning_rate
from .session import Session, greedy_engine
from .signals import StopRequest
from .step import Update

log = logging.getLogger(__name__)

MAX_SKIPPED, SKIP_WINDOW = 3, 100
"""--nonfinite skip leaves out at most so many steps in any so many."""

MAX_FAILED_SAVES = 3
"""So many saves in a row may fail for want of disk space, the last of which ends the run."""


def to_the_end(run: Session, train: Callable[[StopRequest], None], evaluate: Callable[[str], object]) -> None:
    """Carry an opened run from where it stands to its exported model, with evaluations before and after.

    Args:
        train: takes the steps that are left; calls `after_step` behind them.
        evaluate: called with "before", "during" or "after".
    """
    try:
        if run.ended and (run.run.output_dir / "final").is_dir():
            run.tracker.message(f"{run.run.output_dir}: all {run.step} steps are done")
            return
        heartbeat.beat("evaluation", run.step)
        status.write("running")
        with StopRequest() as stop:
            if run.step == 0:
                evaluate("before")
            train(stop)
        heartbeat.beat("evaluation")
        evaluate("after")
        heartbeat.beat("export")
        run.export()
        heartbeat.beat("report")
        folder = run.run.output_dir
        run.tracker.message(f"finished: the model is {folder / 'final'}; what happened: {_page_about(run)}")
    finally:
        run.close()


def _page_about(run: Session) -> str:
    """Write the page about the run and say where it is; when that fails, how to try again: the run is done by then."""
    folder = run.run.output_dir
    if run.place.rank:
        return ""
    try:
        return str(write_report(folder))
    except Exception as error:
        log.warning("no report was written: %r", error)
        return f"r1-mllm report {folder}"


def take_step(run: Session, update: Update, offenders: Callable[[], Sequence[dict[str, Any]]]) -> None:
    """Change the weights, or leave the step out when a number is not finite.

    Args:
        offenders: finds this rank's samples behind a non-finite number, as rows with `id` and `image`.
    """
    if update.finite:
        rate = learning_rate(run.step, run.num_steps, run.config.optimizer)
        if run.scale.active:
            run.optimizer.scale_gradients(1.0 / run.scale.value)
        run.optimizer.step(rate, update.grad_norm)
        run.scale.good()
    else:
        run.optimizer.clear()
        if not run.scale.overflow():
            _report_nonfinite(run, update, offenders())
    run.step += 1
    heartbeat.finished(run.step)


def _report_nonfinite(run: Session, update: Update, rows: Sequence[dict[str, Any]]) -> None:
    """Name the samples behind a non-finite number, then stop the run or count the step as left out."""
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


def keep_metrics(run: Session, update: Update, values: Mapping[str, float], num_tokens: int, seconds: float) -> None:
    """Keep a step's metrics and write a line every logging_steps and at the end.

    Args:
        values: what this kind of training adds.
        num_tokens: of the step, all ranks.  seconds: the step took.
    """
    shared = {
        "loss": update.loss,
        "grad_norm": update.grad_norm,
        "learning_rate": learning_rate(run.step - 1, run.num_steps, run.config.optimizer),
        "epoch": run.stream.epoch,
        "step_time": seconds,
        "tokens_per_second": num_tokens / seconds,
        "skipped_steps": len(run.skipped),
        "memory/peak_gb": peak_gb(),
        **run.dropped.metrics(),
    }
    if run.scale.active:
        shared["loss_scale"] = run.scale.value
    run.window.append({**shared, **values})
    if run.step % run.config.training.logging_steps == 0 or run.ended:
        run.tracker.log(run.step, metrics.average(run.window))
        run.window = []


def after_step(run: Session, before: int, stop: StopRequest, evaluate: Callable[[str], object]) -> None:
    """Evaluate and save when the steps taken since `before` make it time; end when a signal asked for it."""
    training = run.config.training
    done = run.ended
    if done and run.stopper.reason:
        run.tracker.message(f"step {run.step} is the last one: {run.stopper.reason}")
    if training.eval_steps and not done and _passed(before, run.step, training.eval_steps):
        heartbeat.beat("evaluation")
        evaluate("during")
    late = training.save_minutes is not None and time.monotonic() - run.saved_at > 60 * training.save_minutes
    asked, late = map(any, zip(*collectives.gather_objects((stop.asked, late)), strict=True))
    if done or asked or late or _passed(before, run.step, training.save_steps):
        _save(run, last=done or asked)
        status.write("running")
    if asked and not done:
        raise Stop(f"stopped by a signal after step {run.step}; the same command continues", STOPPED)
    heartbeat.beat("next step")
    faults.reach(faults.STEP)


def _save(run: Session, last: bool) -> None:
    """Save; a disk that is full costs this checkpoint only, unless it is the last one or the third in a row."""
    heartbeat.beat("save")
    _try_to(run, run.settle)
    _try_to(run, lambda: run.save(beside=not last), last)
    run.saved_at = time.monotonic()


def _try_to(run: Session, save: Callable[[], bool], last: bool = False) -> None:
    """Save, or wait for a save that was begun before, and count failures; `save` says whether one is done."""
    try:
        done = save()
    except Stop as stop:
        run.failed_saves += 1
        if stop.code != DISK or last or run.failed_saves >= MAX_FAILED_SAVES:
            raise
        left = MAX_FAILED_SAVES - run.failed_saves
        run.tracker.message(f"ERROR: {stop}. Training goes on; {left} more in a row end it with exit code {DISK}")
    else:
        run.failed_saves = 0 if done else run.failed_saves


def _passed(before: int, now: int, every: int) -> bool:
    """Say whether a multiple of `every` lies in (before, now]: rollouts may take several steps."""
    return every > 0 and now // every > before // every


def evaluate_accuracy(run: Session, when: str) -> EvalResult | None:
    """Answer the held-out examples greedily, shared out to the ranks; write eval_WHEN.json and a line of metrics.

    With data_policy quarantine rows that went bad since the start are left out, with a warning.
    """
    if not run.eval_examples:
        return None
    mine = range(run.place.rank, len(run.eval_examples), run.place.world)
    try:
        rows = _answered(run, mine)
    except ValueError as error:
        if run.config.data.data_policy == "strict":
            raise Stop(str(error), DATA) from error
        rows = _answered(run, [number for number in mine if _readable(run, number)])
    joined = sorted((row for part in collectives.gather_objects(rows) for row in part), key=lambda row: row[0])
    if not joined:
        return None
    result = summarise([row for _, row in joined])
    if run.place.rank == 0:
        _write_evaluation(run, result, when)
    return result


def _answered(run: Session, numbers: Sequence[int]) -> list[tuple[int, Mapping[str, Any]]]:
    """Answer and grade some held-out examples; a bad one is a ValueError."""
    config = run.config
    if not numbers:
        return []
    result = evaluate(
        greedy_engine(run),
        run.processor,
        [run.eval_examples[number] for number in numbers],
        reward_config=config.settled_reward,
        templates=run.templates,
        system_prompt=config.data.system_prompt,
        batch_size=max(1, config.rollout.rollout_batch_rows),
        max_new_tokens=config.rollout.max_completion_length,
    )
    return list(zip(numbers, result.rows, strict=True))


def _readable(run: Session, number: int) -> bool:
    try:
        run.encode(run.eval_examples[number])
    except Stop as stop:
        log.warning("left out of the evaluation: %s", stop)
        return False
    return True


def _write_evaluation(run: Session, result: EvalResult, when: str) -> None:
    folder = run.run.output_dir
    if when != "during":
        result.write(folder / f"eval_{when}.json", step=run.step)
    low, high = result.interval
    line = {"step": run.step, "accuracy": result.accuracy, "low": low, "high": high, "num": result.num}
    with (folder / "eval.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line | {"mean_score": result.mean_score}) + "\n")
    run.tracker.log(run.step, {"eval/accuracy": result.accuracy, "eval/score": result.mean_score})
