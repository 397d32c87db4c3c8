# SPDX-License-Identifier: Apache-2.0
"""How much memory a run needs on each device, worked out from config.json and the settings.  No Paddle.

Parameters, masters, moments and gradients are exact; activations, cache and logits are upper estimates for full packs.
What the runtime itself takes (CUDA context, NCCL, Paddle's libraries, fragmentation) is not included.

Shape letters as in models/names.py: C text hidden size, I text MLP size, D vision hidden size, M vision MLP size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ..config import GrpoConfig, SftConfig
from ..models.adapter_spec import AdapterSpec
from ..models.config import ModelArch
from ..models.names import Parameter, parameters

Phase = Literal["always", "sampling", "training"]

FLOAT = 4
"""Bytes of a float32: gradients' sums, masters and moments are kept in it."""
LOGITS_BLOCK = 1 << 23
"""Logits of one block of the head (models/head.py BLOCK_ELEMENTS)."""
BUCKET = 1 << 22
"""Numbers exchanged together under sharding (distributed/shards.py)."""

_VISION = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "window_size": 112}
_QWEN = {"model_type": "qwen2_5_vl", "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
PUBLISHED = {
    "Qwen2.5-VL-3B": {
        **_QWEN,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "vision_config": {**_VISION, "out_hidden_size": 2048},
    },
    "Qwen2.5-VL-7B": {
        **_QWEN,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
        "vision_config": {**_VISION, "out_hidden_size": 3584},
    },
}
"""Sizes of published networks, from their config.json, for tables where no checkpoint is at hand."""


@dataclass(frozen=True)
class Row:
    """One thing that takes memory on each device."""

    name: str
    bytes: int
    phase: Phase
    """always, or only while sampling or while training; the larger of these two counts."""
    note: str


def num_parameters(arch: ModelArch, config: GrpoConfig | SftConfig) -> tuple[int, int]:
    """Count a network's numbers: all of them (adapters included), and those that are trained."""
    listed = list(parameters(arch))
    sizes = {parameter.name: _size(parameter) for parameter in listed}
    whole = sum(sizes.values())
    if config.lora.use_peft:
        adapters = _adapter_size(listed, config)
        return whole + adapters, adapters
    frozen = [("visual.", config.model.freeze_vision), ("text.", config.model.freeze_language)]
    kept = sum(size for name, size in sizes.items() for start, on in frozen if on and name.startswith(start))
    return whole, whole - kept


def weight_bytes(config: GrpoConfig | SftConfig, device: Literal["cpu", "gpu"]) -> int:
    """Bytes of one weight: a CPU computes in float32, a GPU in what was asked for, by default two bytes."""
    asked = config.model.torch_dtype
    return 4 if device == "cpu" or asked == "float32" else 2


def memory_estimate(
    arch: ModelArch,
    config: GrpoConfig | SftConfig,
    world: int = 1,
    device: Literal["cpu", "gpu"] = "gpu",
    threads: int = 1,
) -> list[Row]:
    """List what takes memory on each device.

    Args:
        world: processes of the run, all nodes together.
        device: cpu keeps weights in float32 and attention's probabilities.
        threads: CPU threads that run packs at once; each has gradients of its own.

    Raises:
        ValueError: a sharding degree that does not divide `world`.
    """
    slices = config.sharding.degree(world)
    return [*_kept(arch, config, slices, device, threads), *_passing(arch, config, device, threads)]


def total(rows: Sequence[Row]) -> int:
    """Bytes at the peak: what is always there, and the larger of sampling and training."""
    sums = {phase: sum(row.bytes for row in rows if row.phase == phase) for phase in ("always", "sampling", "training")}
    return sums["always"] + max(sums["sampling"], sums["training"])


def describe(rows: Sequence[Row], device_gb: float | None = None) -> str:
    """Write the rows as a table in GB (1e9 bytes), with the peak and whether it fits."""
    lines = [f"  {row.name:24} {row.bytes / 1e9:8.2f} GB  {row.phase:8}  {row.note}" for row in rows]
    peak = total(rows) / 1e9
    fits = ""
    if device_gb is not None:
        fits = f"  {'fits' if peak <= device_gb else 'does not fit'} {device_gb:g} GB"
    lines.append(f"  {'peak':24} {peak:8.2f} GB  without what the runtime itself takes{fits}")
    return "\n".join(lines)


def _kept(
    arch: ModelArch, config: GrpoConfig | SftConfig, slices: int, device: Literal["cpu", "gpu"], threads: int
) -> Iterator[Row]:
    """Weights, optimizer state, gradients, reference."""
    width = weight_bytes(config, device)
    whole, trained = num_parameters(arch, config)
    share = -(-trained // slices)
    shared = f", 1/{slices} of it" if slices > 1 else ""
    yield Row("weights", whole * width, "always", f"{whole / 1e9:.3f}e9 numbers of {width} bytes")
    if width < FLOAT:
        yield Row("masters", share * FLOAT, "always", f"{trained / 1e9:.3f}e9 trained, float32{shared}")
    yield Row("moments", 2 * share * FLOAT, "always", f"two of float32{shared}")
    if config.objective.beta and not config.lora.use_peft:
        yield Row("reference", whole * width, "always", "--beta 0 or --use_peft need none")
    yield _gradients(config, trained, share, width, threads)
    if not (config.lora.use_peft or config.model.freeze_language):
        parts = 2 if arch.text.tie_word_embeddings else 1
        table = arch.text.vocab_size * arch.text.hidden_size
        yield Row(
            "embedding's gradient", parts * table * width, "training", "and the tied head's, before they are added"
        )


def _gradients(config: GrpoConfig | SftConfig, trained: int, share: int, width: int, threads: int) -> Row:
    """Gradients at their largest: at the end of a pack's backward pass."""
    one_pass = trained * width * threads
    if share == trained:
        sums = trained * FLOAT if width < FLOAT else 0
        return Row("gradients", one_pass + sums, "training", "of one pass, and float32 sums where weights are narrower")
    if config.sharding.gradients:
        passing = min(trained, 2 * BUCKET) * (width + FLOAT) if threads == 1 else one_pass
        return Row("gradients", passing + share * FLOAT, "training", "buckets on their way, and the slice's sums")
    sums = trained * FLOAT if width < FLOAT else 0
    return Row("gradients", one_pass + sums, "training", "whole until the exchange; stage2 keeps a slice")


def _passing(
    arch: ModelArch, config: GrpoConfig | SftConfig, device: Literal["cpu", "gpu"], threads: int
) -> Iterator[Row]:
    """Activations of a pack, the head's block, the rollout's cache."""
    width = weight_bytes(config, device)
    tokens, patches = config.training.tokens_per_pack, _patches(arch, config)
    recompute = config.model.recompute or config.sharding.recompute
    kept = _activations(arch, config, tokens, patches, recompute, device)
    how = "one block whole, inputs of the others" if recompute else "all blocks; --recompute keeps inputs only"
    yield Row("activations", kept * width * threads, "training", f"{tokens} tokens and {patches} patches: {how}")
    yield Row("logits block", LOGITS_BLOCK * (2 * FLOAT + width) * threads, "training", "logits and probabilities")
    if isinstance(config, SftConfig):
        return
    rows = config.training.per_device_train_batch_size * config.training.gradient_accumulation_steps
    rows = min(config.rollout.rollout_batch_rows, rows * config.rollout.num_generations)
    groups = -(-rows // config.rollout.num_generations)
    held = groups * config.data.max_prompt_length + rows * config.rollout.max_completion_length
    text = arch.text
    per_token = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
    cache = held * per_token * {"auto": width, "float32": 4}.get(config.rollout.cache_dtype, 2)
    if config.rollout.rollout_cache_mb is not None:
        cache = min(cache, config.rollout.rollout_cache_mb << 20)
    yield Row("cache", 2 * cache, "sampling", f"{rows} rows, twice while rows move")
    if config.lora.use_peft:
        copied = _merged_size(list(parameters(arch)), config)
        yield Row("merged weights", copied * width, "sampling", "copies of the weights with their adapters")
    yield Row("sampling logits", rows * text.vocab_size * (2 * FLOAT + width), "sampling", "logits and probabilities")


def _patches(arch: ModelArch, config: GrpoConfig | SftConfig) -> int:
    """Patches of a pack at most: pictures fill what the prompts may hold, max_pixels each where that is less."""
    merged = arch.vision.merge_size**2
    if isinstance(config, SftConfig):
        return config.training.tokens_per_pack * merged
    prompt = config.data.max_prompt_length
    group = prompt + config.rollout.num_generations * config.rollout.max_completion_length
    pictures = max(1, config.training.tokens_per_pack // group)
    visual = prompt
    if config.data.max_pixels is not None:
        visual = min(visual, config.data.max_pixels // (arch.vision.patch_size * arch.vision.merge_size) ** 2)
    return pictures * visual * merged


def _activations(
    arch: ModelArch, config: GrpoConfig | SftConfig, tokens: int, patches: int, recompute: bool, device: str
) -> int:
    """Numbers kept for the backward pass: norms' inputs and outputs, queries, keys, values, attention, MLP."""
    text, vision = arch.text, arch.vision
    heads = (text.num_attention_heads + 2 * text.num_key_value_heads) * text.head_dim
    layer = 4 * text.hidden_size + 2 * heads + text.num_attention_heads * text.head_dim + 3 * text.intermediate_size
    block = 11 * vision.hidden_size + (3 if vision.mlp == "swiglu" else 4) * vision.intermediate_size
    if device == "cpu":  # attention keeps its probabilities; flash kernels do not
        seen = config.data.max_prompt_length + config.rollout.max_completion_length
        layer += text.num_attention_heads * min(tokens, seen)
    if config.model.freeze_vision:
        per_patch = block  # one block at a time, nothing kept
    elif recompute:
        per_patch = block + vision.depth * vision.hidden_size
    else:
        per_patch = vision.depth * block
    per_token = layer + text.num_hidden_layers * text.hidden_size if recompute else text.num_hidden_layers * layer
    return tokens * per_token + patches * per_patch


def _size(parameter: Parameter) -> int:
    product = 1
    for length in parameter.shape:
        product *= int(length)
    return product


def _merged_size(listed: Sequence[Parameter], config: GrpoConfig) -> int:
    """Numbers of the decoder's weights that a rollout keeps with the adapters in them."""
    spec = _spec(config)
    return sum(
        _size(parameter)
        for parameter in listed
        if parameter.layout == "linear" and parameter.name.startswith("text.")
        if any(spec.chooses(name.removesuffix(".weight")) for name, _ in parameter.sources)
    )


def _adapter_size(listed: Sequence[Parameter], config: GrpoConfig | SftConfig) -> int:
    """Numbers of the adapters that --use_peft adds."""
    spec = _spec(config)
    return sum(
        spec.rank * (parameter.shape[0] + shape[0])
        for parameter in listed
        if parameter.layout == "linear"
        for name, shape in parameter.sources
        if spec.chooses(name.removesuffix(".weight"))
    )


def _spec(config: GrpoConfig | SftConfig) -> AdapterSpec:
    lora = config.lora
    return AdapterSpec(lora.lora_r, lora.lora_alpha, lora.lora_target_modules, lora.lora_exclude_modules)
