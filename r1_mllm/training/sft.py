# SPDX-License-Identifier: Apache-2.0
"""Supervised fine-tuning: imitate the answers of conversations, with the packs, the optimizer and the run of GRPO.

A pair is a group of one completion, as `data.pack.supervised_pair` makes it; earlier answers of a conversation stand in
its prompt, marked.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import paddle

from ..config import SftConfig
from ..data.mixture import LoadReport, num_shared
from ..data.pack import pack, supervised_pair
from ..distributed import collectives
from ..distributed.heartbeat import beat
from ..models import threads
from ..models.qwen_vl import QwenVL
from ..processing.ahead import Ahead
from ..processing.conversation import lesson, lesson_length
from ..processing.prompt import Processor
from ..records import Example, Group, PackedBatch
from ..runtime import DATA, NONFINITE, Stop
from ..tasks import conversation
from ..tasks.templates import Templates
from . import memory
from .dropped import LostExample
from .loop import after_step, evaluate_accuracy, keep_metrics, take_step, to_the_end
from .optimizer import AdamW, learning_rate
from .session import Session, load_questions, load_within, num_workers, open_session
from .signals import StopRequest
from .status import supervised
from .step import Stopwatch, Update, back_propagate, poisons, sum_passes
from .utilisation import Meter

log = logging.getLogger(__name__)

MANY_EPOCHS = 10.0
"""More than so many passes over the same rows are worth a warning."""

EVALUATED_TOGETHER = 64
"""Held-out conversations whose pictures are in memory at a time."""


def train(config: SftConfig) -> None:
    """Fine-tune as configured, from the start or from the last checkpoint of the same run, to the end."""
    with supervised(), memory.explained(config):
        _fine_tune(config)


def _fine_tune(config: SftConfig) -> None:
    held_out: list[Example] = []
    run = open_session(config, lambda *asked: load_lessons(*asked, held_out=held_out))
    num_shared(run.examples, held_out)
    epochs = run.num_steps / run.stream.steps_per_epoch
    if epochs > MANY_EPOCHS:
        log.warning(
            "%d steps are %.1f epochs over %d rows; fewer --max_steps overfit less",
            run.num_steps,
            epochs,
            len(run.examples),
        )

    def evaluate(when: str) -> None:
        _evaluate_loss(run, held_out)
        evaluate_accuracy(run, when)

    to_the_end(run, lambda stop: _train(run, stop, evaluate), evaluate)


def load_lessons(
    split: str,
    config: SftConfig,
    processor: Processor,
    templates: Templates,
    held_out: list[Example] | None = None,
) -> tuple[list[Example], LoadReport]:
    """Load the conversations to train on; else the questions to answer, and into `held_out` its conversations."""
    lessons, report = _load_conversations(split, config, processor)
    if split == "train":
        return lessons, report
    if held_out is not None:
        held_out.extend(lessons[: config.training.eval_num])
    if not config.data.accuracy_dataset_name:
        return [], report
    asked = replace(config.data, eval_dataset_name=config.data.accuracy_dataset_name)
    questions, graded = load_questions(split, replace(config, data=asked), processor, templates)
    report.datasets += graded.datasets
    report.problems += graded.problems
    return questions, report


def _load_conversations(split: str, config: SftConfig, processor: Processor) -> tuple[list[Example], LoadReport]:
    """Load a split's conversations that are not longer than max_length."""

    def length(example: Example) -> int:
        sizes = [processor.image_size(picture) for picture in example.images]
        return lesson_length(processor, _turns(example, config), sizes)

    limit = ("max_length", config.data.max_length)
    return load_within(split, config.data, length, limit, conversation.example)


def _turns(example: Example, config: SftConfig) -> Sequence[conversation.Turn]:
    """Give a conversation's turns, with the run's system prompt where it has none of its own."""
    return conversation.with_system(example.answer, config.data.system_prompt)


def encode(run: Session, example: Example) -> Group:
    """Make a conversation a pair to learn."""
    if isinstance(example, LostExample):
        raise Stop(example.message, DATA)
    try:
        prompt, ids = lesson(run.processor, _turns(example, run.config), example.images)
    except ValueError as error:
        raise Stop(f"{example.meta['where']}: {error}", DATA) from error
    return replace(supervised_pair(prompt, ids), example=example)


def _train(run: Session, stop: StopRequest, evaluate: Callable[[str], None]) -> None:
    make = run.dropped.tried(lambda number: encode(run, run.examples[number]))
    ahead = Ahead(make, num_workers(run.config.data))
    try:
        _take_steps(run, ahead, stop, evaluate)
    finally:
        ahead.close()


def _take_steps(run: Session, ahead: Ahead[Group], stop: StopRequest, evaluate: Callable[[str], None]) -> None:
    meter = Meter.of(run.model, run.config, False, run.place.world)
    while run.step < run.num_steps:
        watch, before = Stopwatch(), run.step
        _, pairs = run.dropped.take(ahead, run.stream.next())
        if run.step + 1 < run.num_steps:
            ahead.prepare(run.stream.peek())
        if not run.dropped.agree(run.examples, run.step + 1, len(pairs), run.tracker.message):
            after_step(run, before, stop, evaluate)
            continue
        seconds = {"time/encode": watch.lap()}
        training = run.config.training
        update = supervised_update(
            run.model, pairs, run.optimizer, training.tokens_per_pack, training.seed, run.scale.value
        )
        take_step(run, update, lambda pairs=pairs: _offending_rows(run, pairs))
        seconds["time/update"] = watch.lap()
        counted = collectives.sum_scalars(_count(pairs))
        run.num_tokens += int(counted["tokens"])
        work, total = meter.update(pairs), watch.total()
        values = {"num_tokens": run.num_tokens, "answer_tokens": counted["answers"], **seconds}
        values |= meter.rates(work, work, seconds, total)
        keep_metrics(run, update, values, int(counted["tokens"]), total)
        after_step(run, before, stop, evaluate)


def _count(pairs: Sequence[Group]) -> dict[str, float]:
    """Count the tokens of pairs, and those of them that are learnt."""
    prompts, answers = ([group.prompt for group in pairs], sum(len(group.completions[0].ids) for group in pairs))
    earlier = sum(int(prompt.answers.sum()) for prompt in prompts if prompt.answers is not None)
    return {"tokens": float(answers + sum(len(prompt.ids) for prompt in prompts)), "answers": float(answers + earlier)}


def _offending_rows(run: Session, pairs: Sequence[Group]) -> list[dict[str, Any]]:
    """Describe the pairs that give non-finite numbers on their own; all when none does."""

    def backward(batch: PackedBatch) -> float:
        loss = supervised_loss(run.model, batch, float(batch.mask.sum()))
        back_propagate(loss)
        return loss.item()

    found = []
    for pair in pairs:
        (batch,) = pack([pair], run.config.training.tokens_per_pack, run.visual_ids)
        if poisons(run.model, lambda batch=batch: backward(batch)):
            found.append(pair)
    rows = []
    for example in (pair.example for pair in found or pairs):
        files = [picture for picture in example.images if isinstance(picture, str)]
        rows.append({"id": example.meta.get("id", example.meta["where"]), "image": files})
    return rows


@paddle.no_grad()
def held_out_loss(model: QwenVL, pairs: Sequence[Group], tokens_per_pack: int = 8192) -> tuple[float, float]:
    """Sum the NLL of the pairs' answer tokens, and count those: nats and tokens of this rank."""
    batches = pack(pairs, tokens_per_pack, {model.arch.image_token_id, model.arch.video_token_id})
    losses = threads.run(lambda batch: supervised_loss(model, batch, 1.0).item(), batches)
    return sum(losses), float(sum(batch.mask.sum() for batch in batches))


def _evaluate_loss(run: Session, held_out: Sequence[Example]) -> None:
    """Measure the mean NLL of the held-out answers' tokens, shared out to the ranks, and log it.

    With data_policy quarantine conversations that went bad since the start are left out, with a warning.
    """
    encoded = run.dropped.tried(lambda number: encode(run, held_out[number]))
    if not held_out:
        return
    mine = range(run.place.rank, len(held_out), run.place.world)
    total = tokens = 0.0
    for start in range(0, len(mine), EVALUATED_TOGETHER):
        beat("evaluation")
        found = [encoded(number) for number in mine[start : start + EVALUATED_TOGETHER]]
        for bad in (one for one in found if isinstance(one, Stop)):
            log.warning("left out of the evaluation: %s", bad)
        pairs = [one for one in found if not isinstance(one, Stop)]
        part = held_out_loss(run.model, pairs, run.config.training.tokens_per_pack)
        total, tokens = total + part[0], tokens + part[1]
    summed = collectives.sum_scalars({"loss": total, "tokens": tokens})
    if not summed["tokens"]:
        return
    loss = summed["loss"] / summed["tokens"]
    run.tracker.log(run.step, {"eval/loss": loss, "eval/perplexity": math.exp(min(loss, 700.0))})


def supervised_loss(model: QwenVL, batch: PackedBatch, num_tokens: float) -> paddle.Tensor:
    """Negative log-likelihood of a pack's answer tokens over `num_tokens` (those of the whole step): scalar."""
    logp = model.token_logp(batch)
    weight = paddle.to_tensor(np.where(batch.mask, batch.advantages, 0.0) / num_tokens, dtype=logp.dtype)
    return -paddle.dot(weight, logp)


def supervised_update(
    model: QwenVL,
    pairs: Sequence[Group],
    optimizer: AdamW,
    tokens_per_pack: int = 8192,
    seed: int = 0,
    scale: float = 1.0,
) -> Update:
    """Sum the gradients of the mean NLL of the pairs' answer tokens, all ranks together; weights stay as they are.

    Args:
        seed: of adapters' dropout.  scale: gradients are left multiplied by it.
    """
    visual_ids = {model.arch.image_token_id, model.arch.video_token_id}
    batches = pack(pairs, tokens_per_pack, visual_ids, at_least=threads.count())
    tokens = collectives.sum_scalars({"tokens": float(sum(batch.mask.sum() for batch in batches))})["tokens"]

    def backward(member: QwenVL, batch: PackedBatch) -> tuple[float, None]:
        loss = supervised_loss(member, batch, tokens)
        back_propagate(loss, scale)
        return loss.item(), None

    return sum_passes(model, backward, batches, optimizer, seed, scale)[0]


def supervised_step(
    model: QwenVL, pairs: Sequence[Group], optimizer: AdamW, rate: float, tokens_per_pack: int = 8192
) -> tuple[float, float]:
    """Take one optimizer step on the mean NLL of the pairs' answer tokens, all ranks together.

    Returns:
        The loss before the step, and the gradient's norm before clipping.
    """
    update = supervised_update(model, pairs, optimizer, tokens_per_pack)
    if not update.finite:
        optimizer.clear()
        message = (
            f"supervised loss {update.loss}, gradient norm {update.grad_norm}: not finite; lower the learning rate"
        )
        raise Stop(message, NONFINITE)
    optimizer.step(rate, update.grad_norm)
    return update.loss, update.grad_norm


def supervised_steps(
    model: QwenVL,
    batches: Iterable[Sequence[Group]],
    optimizer: AdamW,
    num_steps: int | None = None,
    seconds: float | None = None,
    tokens_per_pack: int = 8192,
    on_step: Callable[[int, float, float], None] | None = None,
) -> int:
    """Take supervised steps until the batches, the steps or the seconds run out; give how many were taken.

    Args:
        batches: the pairs of one step each.
        num_steps: end after so many; also the length of the learning-rate schedule.
        seconds: end after so much time; without num_steps the schedule follows the share of time that has passed.
        on_step: called with (steps taken, loss, learning rate).
    """
    if num_steps is None and seconds is None:
        raise ValueError("supervised_steps needs num_steps, seconds, or both")
    start = time.perf_counter()
    taken = 0
    for pairs in batches:
        spent = time.perf_counter() - start
        if (num_steps is not None and taken >= num_steps) or (seconds is not None and spent >= seconds):
            break
        length = num_steps or max(taken + 1, math.ceil(taken * seconds / max(spent, 1e-9)))
        rate = learning_rate(taken, length, optimizer.config)
        loss, _ = supervised_step(model, pairs, optimizer, rate, tokens_per_pack)
        taken += 1
        if on_step is not None:
            on_step(taken, loss, rate)
    return taken
