# SPDX-License-Identifier: Apache-2.0
"""Out of memory, explained: what takes it, which settings change that, and what they are now."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import paddle

from ..config import GrpoConfig, SftConfig, flatten
from ..distributed import heartbeat
from ..models import threads
from ..models.config import ModelArch
from ..models.weights import resolve
from ..runtime import MEMORY, Stop
from . import sizing

KNOBS = {
    "sampling": (
        ("rollout_cache_mb", "bounds keys and values; prompts then wait"),
        ("rollout_batch_rows", "rows decoded together"),
        ("cache_dtype", "bfloat16 halves keys and values of a float32 model"),
        ("num_generations", "completions per prompt"),
        ("max_completion_length", "tokens of a completion"),
        ("prefill_tokens", "prompt tokens read in one pass"),
    ),
    "training": (
        ("tokens_per_pack", "half of it halves the activations, at little cost in speed"),
        ("recompute", "True keeps only each block's input, for about a third more time"),
        ("max_completion_length", "tokens of a completion"),
        ("freeze_vision", "True keeps no activations, gradients and optimizer state of the vision tower"),
    ),
    "always": (
        ("use_peft", "True: gradients and optimizer state of adapters only, no reference model"),
        ("sharding", "stage1 shares optimizer state out to the devices, stage2 gradients too, stage3 also recomputes"),
        ("beta", "0 loads no reference model"),
        ("torch_dtype", "bfloat16 halves the weights on a GPU"),
        ("max_pixels", "bounds a picture's visual tokens"),
        ("max_prompt_length", "longer prompts are dropped"),
    ),
}
"""When memory is short in a phase: (setting, what it does)."""

SAMPLING_PHASES = ("generate", "evaluation")


@contextmanager
def explained(config: GrpoConfig | SftConfig) -> Iterator[None]:
    """While the body runs, a failed allocation becomes a `Stop` that says what to turn."""
    try:
        yield
    except MemoryError as error:  # Paddle's ResourceExhausted, on every device, and numpy's
        raise Stop(explanation(config, str(error)), MEMORY) from error


def explanation(config: GrpoConfig | SftConfig, cause: str) -> str:
    """Say what needs memory in the phase the process is in, and list the settings that change it with their values."""
    beat = heartbeat.latest
    kind = "sampling" if beat.phase in SAMPLING_PHASES else "training"
    values = flatten(config)
    first_line = (cause.strip().splitlines() or ["no further word"])[0]
    lines = [f"out of memory at step {beat.step}, phase {beat.phase}: {first_line}"]
    estimate = _estimate(config)
    if estimate:
        lines += ["what this run is estimated to need on each device:", estimate]
    lines.append(f"settings that lower it, the first ones for {kind}, with their values now:")
    knobs = [knob for knob in (*KNOBS[kind], *KNOBS["always"]) if knob[0] in values]
    lines += [f"  --{name} {values[name]}  ({what})" for name, what in knobs]
    return "\n".join(
        [
            *lines,
            "the last checkpoint is whole; the same command with such a setting changed needs a new "
            "--output_dir, or --resume_from_checkpoint with that checkpoint's folder",
        ]
    )


def _estimate(config: GrpoConfig | SftConfig) -> str | None:
    try:
        arch = ModelArch.from_pretrained(resolve(config.model.model_name_or_path))
    except (ValueError, OSError):
        return None
    device = "cpu" if paddle.device.get_device() == "cpu" else "gpu"
    world = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))
    return sizing.describe(sizing.memory_estimate(arch, config, world, device, threads.count()))


def peak_gb() -> float:
    """The most memory this process has held so far, GB of 1e9 bytes: of the GPU's, or resident on a CPU."""
    if paddle.device.get_device() == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return paddle.device.cuda.max_memory_allocated() / 1e9
