# SPDX-License-Identifier: Apache-2.0
"""Sample the groups of a step; with dynamic sampling (DAPO, arXiv:2503.14476, section 3.2) until all of them teach.

Shape letter: G completions of a group.

Rounds are agreed on by all ranks: each says how many groups it still lacks, the stream hands out exactly that many
examples, and nobody asks again once nobody lacks any or max_num_gen_batches times the step's prompts were sampled.  So
no sampled mixed group is thrown away, no example is skipped, and what is drawn follows from seed, step, round and rank.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .. import rewards
from ..config import GrpoConfig, RolloutConfig
from ..distributed import collectives
from ..distributed.heartbeat import alive, beat
from ..models import threads
from ..models.qwen_vl import QwenVL
from ..objectives.advantages import all_equal
from ..records import Example, Group, Prompt
from ..rewards.judge_reward import JudgeReward
from ..rewards.user_rewards import UserReward
from ..rollout.engine import Engine
from ..runtime import REWARDS, Stop
from . import faults
from .session import Session
from .step import Stopwatch, assign_advantages, phase_seed

SAMPLING_METRICS = ("num_rounds", "num_sampled", "num_mixed", "num_filled")


@dataclass
class Rollout:
    """What one rank sampled for a step."""

    groups: list[Group] = field(default_factory=list)
    """The step's groups, with advantages; fewer, or none, where rows were dropped."""
    most_groups: int = 0
    """The most groups any rank has; 0: there is nothing to learn from."""
    dropped: list[Group] = field(default_factory=list)
    """Unmixed groups that were sampled and not used: without pixels, their advantages 0."""
    seconds: dict[str, float] = field(default_factory=dict)
    """time/NAME -> seconds."""
    lengths: dict[int, float] = field(default_factory=dict)
    """Example number -> mean tokens of its completions, where a later rollout may make use of that."""
    counts: dict[str, int] = field(default_factory=dict)
    """dynamic_sampling/NAME -> this rank's number, for `SAMPLING_METRICS`; empty without dynamic sampling."""

    @property
    def sampled(self) -> list[Group]:
        """Every group, used or not."""
        return [*self.groups, *self.dropped]


def collect(run: Session, watch: Stopwatch) -> Rollout:
    """Draw, encode, sample and score a step's groups and compare their completions; called on every rank.

    Rows that went bad since the start are dropped; where that leaves no group on any rank, nothing is compared.
    """
    rollout = Rollout()
    if run.config.rollout.dynamic_sampling:
        _collect_mixed(run, watch, rollout)
    else:
        rollout.groups = _sample(run, [run.stream.batch_size] * run.place.world, "rollout", watch, rollout)
    rollout.most_groups = run.dropped.agree(run.examples, run.step + 1, len(rollout.groups), run.tracker.message)
    if not rollout.most_groups:
        return rollout
    assign_advantages(rollout.groups, run.weights, run.config)
    for group in rollout.dropped:
        group.advantages = np.zeros(len(group.completions))
    if _prompts_wait(run.config):
        for lengths in collectives.gather_objects(rollout.lengths):
            run.lengths |= lengths
    _add(rollout.seconds, "time/reward", watch.lap())
    return rollout


def _prompts_wait(config: GrpoConfig) -> bool:
    """Say whether prompts may have to wait while others are decoded; only then it matters which come first."""
    training, settings = config.training, config.rollout
    prompts = training.per_device_train_batch_size * training.gradient_accumulation_steps
    rows = prompts * settings.num_generations
    return rows > settings.rollout_batch_rows or settings.rollout_cache_mb is not None


def _collect_mixed(run: Session, watch: Stopwatch, rollout: Rollout) -> None:
    settings, wanted, rank = run.config.rollout, run.stream.batch_size, run.place.rank
    mixed: list[Group] = []
    num_rounds = num_sampled = 0
    while num_sampled < settings.max_num_gen_batches * wanted * run.place.world:
        lacking = collectives.gather_objects(wanted - len(mixed))
        if not any(lacking):
            break
        num_sampled += sum(lacking)
        phase = "rollout" if num_rounds == 0 else f"rollout-{num_rounds}"
        for group in _sample(run, lacking, phase, watch, rollout):
            (mixed if is_mixed(group, settings) else rollout.dropped).append(group)
        num_rounds += 1
        num_filled = min(wanted - len(mixed), len(rollout.dropped))
        num_dropped = len(rollout.dropped) - num_filled  # the latest may have to fill the step
        rollout.dropped[:num_dropped] = map(_without_pixels, rollout.dropped[:num_dropped])
    rollout.groups = mixed + rollout.dropped[num_dropped:]
    del rollout.dropped[num_dropped:]
    numbers = (num_rounds if rank == 0 else 0, len(rollout.sampled), len(mixed), num_filled)
    rollout.counts = {f"dynamic_sampling/{n}": v for n, v in zip(SAMPLING_METRICS, numbers, strict=True)}


def _sample(run: Session, counts: Sequence[int], phase: str, watch: Stopwatch, rollout: Rollout) -> list[Group]:
    """Sample and score this rank's next counts[rank] groups; ranks with nothing to do return at once."""
    beat("encode")
    numbers = run.stream.draw(counts)
    if not numbers:
        return []
    numbers, prompts = run.dropped.take(run.ahead, numbers)
    examples = [run.examples[i] for i in numbers]
    if run.step + run.config.training.steps_per_rollout < run.num_steps or run.config.rollout.dynamic_sampling:
        run.ahead.prepare(run.stream.peek())
    _add(rollout.seconds, "time/encode", watch.lap())
    if not numbers:
        return []
    seed = phase_seed(run.config.training.seed, run.step, phase, run.place.rank)
    beat("generate")
    expected = [run.lengths.get(number) for number in numbers] if run.lengths else None
    groups = sample(run.engine, examples, prompts, run.config, seed, expected)
    if _prompts_wait(run.config):
        means = (float(np.mean([len(one.ids) for one in group.completions])) for group in groups)
        rollout.lengths.update(zip(numbers, means, strict=True))
    _add(rollout.seconds, "time/generate", watch.lap())
    beat("reward")
    faults.reach(faults.SCORE)
    score(run, groups)
    _add(rollout.seconds, "time/reward", watch.lap())
    return groups


def sample(
    engine: Engine,
    examples: Sequence[Example],
    prompts: Sequence[Prompt],
    config: GrpoConfig,
    seed: int,
    expected: Sequence[float | None] | None = None,
) -> list[Group]:
    """Sample a group for each prompt; where that pays, with the reading of the prompt for the update to go on from."""
    num = config.rollout.num_generations
    keep = {} if _keeps_readings(engine.model, prompts, config) else None
    completions = engine.generate(prompts, num, seed=seed, expected=expected, keep=keep)
    return [
        Group(example, prompt, done, reading=keep.get(i) if keep else None)
        for i, (example, prompt, done) in enumerate(zip(examples, prompts, completions, strict=True))
    ]


def _keeps_readings(model: QwenVL, prompts: Sequence[Prompt], config: GrpoConfig) -> bool:
    """Say whether the update is the sampler's next pass over these prompts, and its packs could hold the whole step.

    Then the activations of the prompts take no more memory during sampling than they take in the update anyway.
    """
    training, lora = config.training, config.lora
    length = config.rollout.num_generations * config.rollout.max_completion_length
    tokens = sum(len(prompt.ids) + length for prompt in prompts)
    return (
        model.reads_once
        and training.steps_per_rollout == 1
        and not config.rollout.dynamic_sampling
        and not (lora.use_peft and lora.lora_dropout)
        and tokens <= training.tokens_per_pack * threads.count()
    )


def score(run: Session, groups: Sequence[Group]) -> None:
    """Fill in what every completion earns."""
    config = run.config.settled_reward
    judge = run.rewards.get("judge")
    if isinstance(judge, JudgeReward):
        judge.ask(groups)
    try:
        for group in groups:
            alive()
            rewards.score(group, run.rewards, config)
    except ValueError as error:
        raise Stop(str(error), REWARDS) from error


def is_mixed(group: Group, settings: RolloutConfig) -> bool:
    """Say whether a scored group can teach: its rewards differ, or under "accuracy" right and wrong answers meet."""
    if settings.filter_metric == "accuracy":
        return len({grade.correct for grade in group.grades}) == 2
    return not bool(all_equal(group.rewards))


def sampling_metrics(rollout: Rollout) -> dict[str, float]:
    """Metrics of dynamic sampling, summed over all ranks; nothing without it."""
    return collectives.sum_scalars(rollout.counts) if rollout.counts else {}


def user_reward_counts(functions: Mapping[str, rewards.RewardFunction]) -> dict[str, float]:
    """Count what became of the step's completions in users' functions, over all ranks: rewards/NAME/timeout ..."""
    counts = {
        f"rewards/{name}/{status}": float(number)
        for name, function in functions.items()
        if isinstance(function, UserReward)
        for status, number in function.take_counts().items()
    }
    return collectives.sum_scalars(counts) if counts else {}


def _without_pixels(group: Group) -> Group:
    return dataclasses.replace(group, prompt=dataclasses.replace(group.prompt, pixels=None))


def _add(seconds: dict[str, float], name: str, value: float) -> None:
    seconds[name] = seconds.get(name, 0.0) + value
