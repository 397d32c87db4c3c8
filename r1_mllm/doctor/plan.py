# SPDX-License-Identifier: Apache-2.0
"""What settings come to: batches and steps, memory, one prompt as the model reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..config import GrpoConfig, SftConfig
from ..data.stream import Stream
from ..models.config import ModelArch
from ..processing.prompt import Processor
from ..records import Example, View
from ..training import sizing, step_time
from .selftest import written

Config = GrpoConfig | SftConfig


def arithmetic(config: Config, num_examples: int, world: int) -> list[str]:
    """Say what a step consists of and how many there are, for so many processes."""
    training = config.training
    prompts = training.per_device_train_batch_size * training.gradient_accumulation_steps
    lines = [
        f"  {training.per_device_train_batch_size} prompts x {training.gradient_accumulation_steps} accumulation x "
        f"{world} processes = {prompts * world} {'prompts a rollout' if _is_grpo(config) else 'conversations a step'}"
    ]
    if _is_grpo(config):
        rollout = config.rollout
        rows, length = prompts * rollout.num_generations, rollout.max_completion_length
        lines.append(
            f"  x {rollout.num_generations} completions = {rows * world} completions, at most {rows * world * length} "
            f"tokens; {training.steps_per_rollout} optimizer steps on them"
        )
        if rows > rollout.rollout_batch_rows:
            lines.append(f"  each process decodes {rollout.rollout_batch_rows} of its {rows} rows at a time")
    per_epoch = Stream(num_examples, prompts, 0, 0, world).steps_per_epoch
    epochs = f"{training.num_train_epochs:g} epochs"
    total = training.num_steps(per_epoch)
    asked = f"max_steps {training.max_steps}" if training.max_steps > 0 else epochs
    lines.append(
        f"  {num_examples} examples: {per_epoch} rollouts an epoch"
        if _is_grpo(config)
        else f"  {num_examples} examples: {per_epoch} steps an epoch"
    )
    lines.append(f"  {asked}: {total} optimizer steps, {total / training.steps_per_rollout / per_epoch:.2f} epochs")
    if num_examples < prompts * world:
        lines.append(f"  WARNING: a step takes {prompts * world} prompts, but there are only {num_examples} examples")
    if training.save_steps > total:
        lines.append(f"  note: save_steps {training.save_steps} is beyond the end; the last step is saved all the same")
    return lines


def _is_grpo(config: Config) -> bool:
    return isinstance(config, GrpoConfig)


def memory(config: Config, arch: ModelArch, world: int) -> list[str]:
    """Estimate the memory each device needs, for a GPU and for a CPU (training/sizing.py)."""
    lines = []
    for device, title in (("gpu", "on a GPU"), ("cpu", "on a CPU, one thread of packs")):
        rows = sizing.memory_estimate(arch, config, world, device)
        lines += [f"  {title}:", sizing.describe(rows)]
    return lines


def seconds(config: GrpoConfig, arch: ModelArch, world: int, prompt: int, visual: int) -> list[str]:
    """Estimate a rollout and its first update (training/step_time.py), completions half as long as they may become.

    Args:
        prompt, visual: median tokens of a prompt, and how many of them are of pictures.
    """
    completion = max(1, config.rollout.max_completion_length // 2)
    work = step_time.Work.of(arch, config, prompt, visual, completion)
    machine = step_time.Machine()
    head = f"  {machine.name}, {prompt}-token prompts, {completion}-token completions, prefill to optimizer:"
    return [head, *step_time.describe(step_time.step_seconds(arch, config, work, world, machine), work, world)]


def views_of(processor: Processor, example: Example) -> Sequence[View]:
    """How an example's pictures will be shown; none for a data set without."""
    return processor.views(example.images)


def sample(
    example: Example, processor: Processor, messages: Sequence[Mapping[str, Any]], with_answer: bool = True
) -> list[str]:
    """Show one example as the model reads it, to the last token."""
    prompt = processor.encode(messages, example.images)
    pictures = ", ".join(f"{view.original_wh} px shown as {view.seen_wh}" for view in prompt.views) or "none"
    num_visual = int((prompt.ids == processor.tokenizer.image_pad_id).sum()) if prompt.views else 0
    lines = [
        f"  {example.meta.get('where', '')}",
        f"  pictures: {pictures}",
        f"  {len(prompt.ids)} tokens, {num_visual} of them visual; the text below has one placeholder per picture:",
        *(f"  | {line}" for line in prompt.text.split("\n")),
    ]
    if with_answer:
        lines.append(f"  a right answer: {written(example, example.answer, prompt.views)}")
    return lines
