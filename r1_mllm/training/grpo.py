# SPDX-License-Identifier: Apache-2.0
"""GRPO: sample a group of answers per question, score them, and make the better ones likelier.

`train` is the life of every sample in order: stream, encode, generate, score, compare, pack, update.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ..config import GrpoConfig
from ..distributed import collectives
from ..distributed.heartbeat import beat
from ..records import Group
from . import memory, metrics, reference
from .collect import Rollout, collect, sampling_metrics, user_reward_counts
from .loop import after_step, evaluate_accuracy, keep_metrics, take_step, to_the_end
from .session import Session, open_session
from .signals import StopRequest
from .status import supervised
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
from .utilisation import Meter


def train(config: GrpoConfig) -> None:
    """Run GRPO as configured, from the start or from the last checkpoint of the same run, to the end."""
    with supervised(), memory.explained(config):
        run = open_session(config)
        to_the_end(run, lambda stop: _train(run, stop), lambda when: evaluate_accuracy(run, when))


def _train(run: Session, stop: StopRequest) -> None:
    config = run.config
    meter = Meter.of(run.model, config, run.reference is not None, run.place.world)
    while not run.ended:
        watch, before = Stopwatch(), run.step
        rollout = collect(run, watch)
        seconds = rollout.seconds
        if not rollout.most_groups:
            run.tracker.message(
                f"warning: every row drawn for step {run.step + 1} was dropped; the next ones are drawn"
            )
            after_step(run, before, stop, lambda when: evaluate_accuracy(run, when))
            continue
        parts = [(groups, pack_groups(groups, run.visual_ids, config)) for groups in _mini_batches(run, rollout)]
        beat("reference")
        for _, packs in parts:
            add_reference(packs, run.reference, config.rollout.temperature)
        seconds["time/reference"] = watch.lap()
        shared = _describe_rollout(run, rollout)
        spent = meter.sampling(rollout.sampled) + meter.scoring(rollout.groups)
        for groups, packs in (parts * config.training.num_iterations)[: run.num_steps - run.step]:
            beat("update")
            work = meter.update(groups)
            update = _update(run, groups, packs)
            seconds["time/update"] = watch.lap()
            if "time/generate" in seconds and (told := run.phases.observe(seconds)):
                run.tracker.message(f"warning: step {run.step}: {told}")
            rates = meter.rates(spent + work, work, seconds, watch.total())
            _log(run, shared | rates, update, seconds, watch.total())
            watch, seconds, spent = Stopwatch(), {}, 0
        if config.training.log_completions:
            run.tracker.completions(run.step, _of_all_ranks(rollout.sampled))
        after_step(run, before, stop, lambda when: evaluate_accuracy(run, when))


def _mini_batches(run: Session, rollout: Rollout) -> list[Sequence[Group]]:
    """Share a rollout's groups out to optimizer steps, of which every rank takes as many."""
    most = rollout.most_groups
    size = run.config.training.mini_batch_size or most
    return [rollout.groups[start : start + size] for start in range(0, most, size)]


def _update(run: Session, groups: Sequence[Group], packs: Packs) -> Update:
    """Take one optimizer step, or leave it out when a number is not finite."""
    update = accumulate_gradients(run.model, packs, run.optimizer, run.scale, run.config)
    take_step(run, update, lambda: _offending_rows(run, groups, packs))
    reference.sync(run.reference, run.model, run.config, run.step)
    return update


def _offending_rows(run: Session, groups: Sequence[Group], packs: Packs) -> list[dict[str, Any]]:
    """Describe the completions of the groups that give non-finite numbers on their own; of all when none does."""
    found = offenders(run.model, groups, packs, run.visual_ids, run.config)
    return [row for group in found or groups for row in completion_rows(run.step, group)]


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
    rewards = columns["rewards"][~columns["not_scored"]]
    run.stopper.observe(float(rewards.mean()) if rewards.size else math.nan, int(columns["lengths"].sum()))
    described = metrics.of_rollout(columns)
    names = ("reward", "frac_reward_zero_std", "completions/clipped_ratio")
    if told := run.spread.observe(*(described[name] for name in names)):
        run.tracker.message(f"warning: step {run.step + 1}: {told}")
    return (
        described
        | sampling
        | user_reward_counts(run.rewards)
        | {
            "num_tokens": run.num_tokens,
            "num_generated_tokens": run.stopper.num_generated,
            "rollout_tokens": tokens,
            "rollout_cache_mb": run.engine.peak_cache_bytes / 2**20,
        }
    )


def _of_all_ranks(groups: Sequence[Group]) -> list[Group]:
    """Collect every rank's groups for the log, without what cannot or need not travel."""
    light = [
        dataclasses.replace(group, prompt=dataclasses.replace(group.prompt, pixels=None), reading=None)
        for group in groups
    ]
    return [group for part in collectives.gather_objects(light) for group in part]


def _log(run: Session, rollout: dict[str, float], update: Update, seconds: dict[str, float], total: float) -> None:
    """Keep the step's metrics."""
    rows = metrics.join(collectives.gather_objects(update.rows))
    values = rollout | metrics.of_update(rows, run.config.objective) | seconds
    keep_metrics(run, update, values, int(rollout["rollout_tokens"]), total)
