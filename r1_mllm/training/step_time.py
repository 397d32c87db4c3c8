# SPDX-License-Identifier: Apache-2.0
"""How long a GRPO step takes on GPUs nobody here has: a model on paper from operations, bytes and link rates.

    seconds of a phase = operations / (peak rate * share of it reached), or bytes / (bandwidth * share), the larger

Nothing of it was run on a GPU.  What counts the work is exact (test_step_time.py holds it to models/operations.py); how
much of the peaks is reached is assumed and stated in `Machine`.  No Paddle.

Shape letters: P prompts of a device's rollout, G completions of a prompt, C completion tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from ..config import GrpoConfig
from ..models.config import ModelArch, TextArch, VisionArch
from ..models.names import parameters
from . import sizing

KERNELS_PER_LAYER = 24
"""Operators of one decode step and layer in rollout/decoder.py, each a launch on a GPU."""


@dataclass(frozen=True)
class Machine:
    """A GPU, its node and the links between nodes.

    The peaks are the vendor's data sheet's; the shares are assumptions, usual for dense bfloat16 training.
    """

    name: str = "A100 80 GB SXM"
    peak_flops: float = 312e12
    """Dense bfloat16, 1/s."""
    bandwidth: float = 2.039e12
    """Of its memory, bytes/s."""
    memory: float = 80e9
    link: float = 300e9
    """Bytes/s each way to the GPUs of its node (NVLink 3)."""
    node_link: float = 25e9
    """Bytes/s each way and GPU between nodes (200 Gb/s each)."""
    per_node: int = 8
    flops_share: float = 0.4
    bandwidth_share: float = 0.6
    link_share: float = 0.7
    launch: float = 5e-6
    """Seconds of a kernel launch; hidden where kernels take longer."""


H100 = Machine("H100 80 GB SXM", 989e12, 3.35e12, 80e9, 450e9, 50e9)


@dataclass(frozen=True)
class Work:
    """One device's share of a rollout, on average."""

    prompts: int
    generations: int
    prompt: int
    """Tokens of a prompt, visual ones included."""
    patches: int
    """Patches of a prompt's pictures before merging."""
    completion: int
    """Mean tokens of a completion; they are sampled until the longest ends."""
    longest: int

    @classmethod
    def of(cls, arch: ModelArch, config: GrpoConfig, prompt: int, visual: int, completion: int) -> Work:
        """Take batch and limits from a run's settings; tokens of a prompt, visual ones of it, mean of a completion."""
        training, rollout = config.training, config.rollout
        prompts = training.per_device_train_batch_size * training.gradient_accumulation_steps
        merged = arch.vision.merge_size**2
        length = rollout.max_completion_length
        return cls(prompts, rollout.num_generations, prompt, visual * merged, min(completion, length), length)


def step_seconds(
    arch: ModelArch, config: GrpoConfig, work: Work, world: int = 1, machine: Machine | None = None
) -> dict[str, float]:
    """Estimate the phases of a rollout and its first update, in seconds, on each of `world` devices."""
    machine = machine or Machine()
    flops, width = machine.peak_flops * machine.flops_share, sizing.weight_bytes(config, "gpu")
    _, trained = sizing.num_parameters(arch, config)
    text = text_forward(arch.text, work)
    vision = work.prompts * vision_forward(arch.vision, work.patches)
    prefill = prompt_forward(arch.text, work.prompts, work.prompt)
    adapters = config.lora.use_peft  # the weights under them need no gradient: half of a backward pass
    backward = (1 if adapters else 2) + (config.model.recompute or config.sharding.recompute)
    learn_vision = 1 if config.model.freeze_vision or adapters else 1 + backward
    return {
        "prefill": (vision + prefill) / flops,
        "decode": _decode(arch.text, work, width, machine),
        "reference": (text + vision) / flops if config.objective.beta and not config.lora.use_peft else 0.0,
        "update": ((1 + backward) * text + learn_vision * vision) / flops,
        "exchange": exchange_seconds(4 * trained, world, machine),
        "optimizer": _optimizer(config, trained, world, width, machine),
    }


def _decode(text: TextArch, work: Work, width: int, machine: Machine) -> float:
    """Steps until the longest completion ends; each reads all weights and what is cached, or is bound by launches."""
    num_bytes, operations = decode_step(text, work, width)
    reading = num_bytes / (machine.bandwidth * machine.bandwidth_share)
    multiplying = operations / (machine.peak_flops * machine.flops_share)
    launching = text.num_hidden_layers * KERNELS_PER_LAYER * machine.launch
    return work.longest * max(reading, multiplying, launching)


def decode_step(text: TextArch, work: Work, width: int) -> tuple[int, int]:
    """Bytes and operations of the average decode step; each prompt's keys and values are read once for its rows."""
    rows, tail = work.prompts * work.generations, work.completion // 2
    weights = decoder_weights(text) + text.vocab_size * text.hidden_size
    kv = 2 * text.num_key_value_heads * text.head_dim
    cached = text.num_hidden_layers * kv * (work.prompts * work.prompt + rows * tail)
    scores = 4 * text.num_hidden_layers * text.num_attention_heads * text.head_dim * (work.prompt + tail)
    return width * (weights + cached), rows * (2 * weights + scores)


def decoder_weights(text: TextArch) -> int:
    """Numbers that every token is multiplied with, the head's left out."""
    heads = text.num_attention_heads * text.head_dim
    kv_heads = text.num_key_value_heads * text.head_dim
    per_layer = text.hidden_size * (2 * heads + 2 * kv_heads + 3 * text.intermediate_size)
    return text.num_hidden_layers * per_layer


def prompt_forward(text: TextArch, prompts: int, length: int) -> int:
    """Operations of reading prompts; the head works on their last tokens."""
    heads = text.num_attention_heads * text.head_dim
    pairs = length * (length + 1) // 2
    inside = 2 * length * decoder_weights(text) + 4 * text.num_hidden_layers * pairs * heads
    return prompts * (inside + 2 * text.vocab_size * text.hidden_size)


def text_forward(text: TextArch, work: Work) -> int:
    """Operations of a forward pass that scores all completions, each prompt computed once."""
    heads, length = text.num_attention_heads * text.head_dim, work.completion
    tokens = work.prompt + work.generations * length
    pairs = work.prompt * (work.prompt + 1) // 2
    pairs += work.generations * (length * work.prompt + length * (length + 1) // 2)
    inside = 2 * tokens * decoder_weights(text) + 4 * text.num_hidden_layers * pairs * heads
    return work.prompts * (inside + 2 * work.generations * length * text.vocab_size * text.hidden_size)


def vision_forward(vision: VisionArch, patches: int) -> int:
    """Operations of the vision tower over one picture; windowed blocks look at whole windows."""
    width = vision.hidden_size
    mlp = (3 if vision.mlp == "swiglu" else 2) * width * vision.intermediate_size
    seen = patches
    num_full = vision.depth
    if vision.window_size:
        seen = min(patches, (vision.window_size // vision.patch_size) ** 2)
        num_full = len(vision.full_attention_blocks)
    pairs = patches * (num_full * patches + (vision.depth - num_full) * seen)
    merged = width * vision.merge_size**2
    merger = patches // vision.merge_size**2 * merged * (merged + vision.out_hidden_size)
    blocks = patches * (vision.patch_dim * width + vision.depth * (4 * width * width + mlp))
    return 2 * blocks + 4 * pairs * width + 2 * merger


def exchange_seconds(num_bytes: int, world: int, machine: Machine) -> float:
    """Sum gradients over all devices in a ring: each sends 2 (n - 1) / n of them over the slowest link."""
    if world == 1:
        return 0.0
    link = machine.link if world <= machine.per_node else machine.node_link
    return 2 * (world - 1) / world * num_bytes / (link * machine.link_share)


def _optimizer(config: GrpoConfig, trained: int, world: int, width: int, machine: Machine) -> float:
    """AdamW reads gradient, master and moments and writes the last three and the weights; sharding shares it out."""
    share = trained / config.sharding.degree(world)
    return share * (4 + 2 * 4 + 4 * 4 + width) / (machine.bandwidth * machine.bandwidth_share)


def num_text_weights(arch: ModelArch) -> int:
    """Numbers of the decoder's linear layers as the checkpoint has them."""
    return sum(prod(p.shape) for p in parameters(arch) if p.name.startswith("text.layers") and p.layout == "linear")


def describe(seconds: Mapping[str, float], work: Work, world: int) -> list[str]:
    """Write phases with their shares, the step and its rate as lines of text."""
    total = sum(seconds.values())
    lines = [f"  {name:10} {value:8.2f} s  {100 * value / total:5.1f} %" for name, value in seconds.items()]
    tokens = world * work.prompts * work.generations * work.completion
    return [*lines, f"  {'step':10} {total:8.2f} s  {tokens / total:,.0f} completion tokens/s on {world} devices"]
