# SPDX-License-Identifier: Apache-2.0
"""Whole GRPO steps, phase by phase: the pieces training/grpo.py runs, on the peer's files, with its keys."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from .. import rewards
from ..config import GrpoConfig, ModelConfig, ObjectiveConfig, OptimizerConfig, RolloutConfig, TrainingConfig
from ..models import threads
from ..models.qwen_vl import QwenVL
from ..models.reading import ReadPrompt
from ..processing.prompt import Processor
from ..records import Group, PackedBatch
from ..training import metrics
from ..training.collect import sample
from ..training.optimizer import AdamW, learning_rate
from ..training.policy_model import load_model
from ..training.scaling import LossScale
from ..training.step import accumulate_gradients, add_reference, assign_advantages, pack_groups, phase_seed
from . import machine
from .lengths import LengthEngine
from .settings import StepBench, length_range, messages, read_folder

PHASES = (
    "preprocess",
    "generate",
    "ref_logprob",
    "old_logprob",
    "policy_forward",
    "loss_total",
    "backward",
    "clip",
    "optimizer",
    "reward",
)
"""The peer's names.  policy_forward is part of loss_total; old_logprob stays 0 on both sides: one update a rollout."""
APART = tuple(name for name in PHASES if name != "policy_forward")


class Watch:
    """Seconds of the step under way, by phase."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._since: float | None = None

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time the block takes to a phase."""
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start

    def begin(self) -> None:
        """Start a stretch that `end` gives to a phase; for work inside functions that are not ours to change."""
        self._since = time.perf_counter()

    def end(self, name: str) -> None:
        """Give the time since `begin` or the last `end` to a phase; before any `begin` there is none."""
        now = time.perf_counter()
        if self._since is None:
            return
        self.seconds[name] += now - self._since
        self._since = now

    def finish(self) -> None:
        """Close the stretch."""
        self._since = None

    def take(self) -> dict[str, float]:
        """Hand out the step's seconds and start anew."""
        seconds, self.seconds, self._since = self.seconds, dict.fromkeys(PHASES, 0.0), None
        return seconds


class TimedAdamW(AdamW):
    """The trainer's optimizer with a watch; the backward pass ends where its gradients are accumulated."""

    def __init__(self, model: QwenVL, config: OptimizerConfig, watch: Watch) -> None:
        super().__init__(model.named_parameters(), config)
        self.watch = watch

    def accumulate(self) -> None:
        """As AdamW.accumulate."""
        self.watch.end("backward")
        self.watch.finish()
        super().accumulate()

    def grad_norm(self) -> float:
        """As AdamW.grad_norm; counts as clipping."""
        with self.watch.phase("clip"):
            return super().grad_norm()

    def scale_gradients(self, factor: float) -> None:
        """As AdamW.scale_gradients; counts as clipping."""
        with self.watch.phase("clip"):
            super().scale_gradients(factor)

    def step(self, rate: float, grad_norm: float) -> None:
        """As AdamW.step; the clipping inside it is counted there only."""
        clipped = self.watch.seconds["clip"]
        with self.watch.phase("optimizer"):
            super().step(rate, grad_norm)
        self.watch.seconds["optimizer"] -= self.watch.seconds["clip"] - clipped


def watch_policy(model: QwenVL, watch: Watch) -> None:
    """Time the policy's forward pass and tell loss from backward: the latter begins when the gradient reaches logp."""
    plain = model.token_logp

    def token_logp(batch: PackedBatch, temperature: float = 1.0, prompts: Sequence[ReadPrompt] = ()) -> paddle.Tensor:
        watch.end("backward")  # of the pack before, where this thread has several
        watch.begin()
        with watch.phase("policy_forward"):
            logp = plain(batch, temperature, prompts)
        logp.register_hook(lambda gradient: watch.end("loss_total"))
        return logp

    model.token_logp = token_logp


def tokens_reward(group: Group, config) -> list[float]:
    """The peer's reward: something that differs between completions and costs nothing."""
    return [float(done.ids.sum() % 97) / 97 for done in group.completions]


def grpo_config(config: StepBench) -> GrpoConfig:
    """Spell the benchmark's settings as the trainer's."""
    bounds = length_range(config)
    return GrpoConfig(
        model=ModelConfig(config.model, torch_dtype="float32", recompute=config.recompute),
        rollout=RolloutConfig(
            num_generations=config.gens,
            max_completion_length=bounds[1] if bounds else config.new,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
        ),
        objective=ObjectiveConfig(beta=config.beta),
        optimizer=OptimizerConfig(learning_rate=config.learning_rate, lr_scheduler_type="constant"),
        training=TrainingConfig(
            per_device_train_batch_size=config.prompts, tokens_per_pack=config.tokens_per_pack, seed=config.seed
        ),
    )


class Trainer:
    """What the steps share: files, models, optimizer, watch."""

    def __init__(self, config: StepBench) -> None:
        self.examples, self.stamp = read_folder(config)
        self.config = grpo_config(config)
        folder = Path(config.model)
        self.processor = Processor.from_pretrained(folder)
        self.model = load_model(folder, self.config)
        self.reference = None
        if config.beta:
            self.reference = load_model(folder, self.config)
            self.reference.eval()
        self.watch = Watch()
        self.engine = LengthEngine(
            self.model, self.processor.tokenizer, self.config.rollout, length_range(config), config.seed
        )
        self.optimizer = TimedAdamW(self.model, self.config.optimizer, self.watch)
        watch_policy(self.model, self.watch)

    def run(self, step: int) -> list[Group]:
        """Take one step; the loop body of training/grpo.py without its files."""
        config, watch = self.config, self.watch
        size = config.training.per_device_train_batch_size
        examples = [self.examples[(step * size + i) % len(self.examples)] for i in range(size)]
        with watch.phase("preprocess"):
            prompts = threads.run(lambda one: self.processor.encode(messages(one), one.images), examples)
        with watch.phase("generate"):
            seed = phase_seed(config.training.seed, step, "rollout", 0)
            groups = sample(self.engine, examples, prompts, config, seed)
        with watch.phase("reward"):
            for group in groups:
                rewards.score(group, {"tokens": tokens_reward}, config.reward)
            assign_advantages(groups, np.ones(1), config)
        arch = self.model.arch
        packs = pack_groups(groups, {arch.image_token_id, arch.video_token_id}, config)
        with watch.phase("ref_logprob"):
            add_reference(packs, self.reference, config.rollout.temperature)
        update = accumulate_gradients(self.model, packs, self.optimizer, LossScale(active=False), config)
        assert update.finite, f"loss {update.loss}, gradient norm {update.grad_norm}"
        self.optimizer.step(learning_rate(step, 1, config.optimizer), update.grad_norm)
        metrics.of_rollout(metrics.describe(groups))
        metrics.of_update(update.rows, config.objective)
        return groups


def measure(config: StepBench) -> dict[str, Any]:
    """Run warm-up and measured steps; return the peer's keys."""
    trainer = Trainer(config)
    history: list[dict[str, float]] = []
    load = machine.OtherLoad()
    for step in range(config.warmup + config.steps):
        start = time.perf_counter()
        groups = trainer.run(step)
        history.append(trainer.watch.take() | {"step": time.perf_counter() - start, "others_cpu": load.mark()})
    num_new = sum(len(done.ids) for group in groups for done in group.completions)
    what = {
        "engine": "r1-mllm",
        "paddle": paddle.__version__,
        "machine": machine.describe(),
        "size": trainer.stamp.get("size"),
        "side": trainer.stamp.get("side"),
        "lengths": config.lengths,
        "params": sum(parameter.size for parameter in trainer.model.parameters()),
        "prompts": config.prompts,
        "gens": config.gens,
        "new": trainer.config.rollout.max_completion_length,
        "prompt_tokens": len(groups[0].prompt.ids),
        "beta": config.beta,
        "grad_ckpt": int(config.recompute),
        "threads": machine.num_threads(),
    }
    return what | summarise(history[config.warmup :], num_new) | {"peak_rss_mb": machine.peak_rss_mb()}


def summarise(steps: list[dict[str, float]], num_new: int) -> dict[str, Any]:
    """Turn the seconds of measured steps into the peer's keys; num_new: tokens of the last step's completions."""

    def median(name: str) -> float:
        values = sorted(step[name] for step in steps)
        return values[len(values) // 2]

    phases = {name: round(median(name), 4) for name in PHASES}
    others = sorted(step["step"] - sum(step[name] for name in APART) for step in steps)
    return {
        "steps": len(steps),
        "step_s": round(median("step"), 4),
        "step_min_s": round(min(step["step"] for step in steps), 4),
        "phases_s": phases,
        "phases_min_s": {name: round(min(step[name] for step in steps), 4) for name in PHASES},
        "policy_fwd_bwd_s": round(phases["loss_total"] + phases["backward"], 4),
        "other_s": round(others[len(others) // 2], 4),
        "new_tokens": num_new,
        "gen_tok_s": round(num_new / max(phases["generate"], 1e-9), 1),
        "step_tok_s": round(num_new / median("step"), 1),
        "others_cpu": [round(step["others_cpu"], 2) for step in steps],
        "per_step": [{name: round(value, 4) for name, value in step.items()} for step in steps],
        "steps_s": [round(step["step"], 3) for step in steps],
    }
