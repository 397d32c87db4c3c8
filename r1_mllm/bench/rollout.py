# SPDX-License-Identifier: Apache-2.0
"""Sampling alone: tokens per second, and a decode step beside the least this machine could take for it."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paddle

from ..config import RolloutConfig
from ..models.config import TextArch
from ..models.qwen_vl import QwenVL
from ..models.weights import load_pretrained
from ..processing.prompt import Processor
from . import machine
from .lengths import LengthEngine
from .settings import RolloutBench, messages, read_folder

FLOAT_BYTES = 4


def measure(config: RolloutBench) -> dict[str, Any]:
    """Time whole rollouts and rollouts of one token; the difference is the decode steps'.

    The machine's rates are measured before and after each pair, and each step is compared with the floor they give.
    """
    examples, stamp = read_folder(config)
    folder = Path(config.model)
    processor = Processor.from_pretrained(folder)
    model = load_pretrained(folder, dtype="float32")
    sampling = RolloutConfig(
        max_completion_length=config.new, temperature=config.temperature, top_p=config.top_p, top_k=config.top_k
    )
    engine = LengthEngine(model, processor.tokenizer, sampling)
    prompts = [processor.encode(messages(example), example.images) for example in examples[: config.prompts]]
    rows = config.prompts * config.gens
    work = step_work(model, config.prompts, rows, len(prompts[0].ids), config.new)
    whole, first, others, rates = [], [], [], []
    load = machine.OtherLoad()
    for repetition in range(config.warmup + config.steps):
        rates.append(_rates(work[0]))
        for length, seconds in ((1, first), (config.new, whole)):
            start = time.perf_counter()
            engine.generate(prompts, config.gens, seed=repetition, max_new_tokens=length)
            seconds.append(time.perf_counter() - start)
        others.append(load.mark())
    rates.append(_rates(work[0]))
    whole, first, rates, others = (each[config.warmup :] for each in (whole, first, rates, others))
    step_ms = [1000 * (one - other) / max(config.new - 1, 1) for one, other in zip(whole, first, strict=True)]
    floor, times = decode_floor(*work, step_ms, rates)
    return {
        "engine": "r1-mllm",
        "paddle": paddle.__version__,
        "machine": machine.describe(),
        "size": stamp.get("size"),
        "prompts": config.prompts,
        "gens": config.gens,
        "new": config.new,
        "prompt_tokens": len(prompts[0].ids),
        "threads": machine.num_threads(),
        "rollout_s": round(statistics.median(whole), 4),
        "prefill_s": round(statistics.median(first), 4),
        "rollout_tok_s": round(rows * config.new / statistics.median(whole), 1),
        "decode_tok_s": round(1000 * rows / statistics.median(step_ms), 1),
        "decode_step_ms": round(statistics.median(step_ms), 4),
        **floor,
        "times_floor": round(statistics.median(times), 2),
        "times_floor_each": [round(each, 2) for each in times],
        "others_cpu": [round(cores, 2) for cores in others],
        "peak_rss_mb": machine.peak_rss_mb(),
    }


def _rates(num_bytes: int) -> tuple[float, float]:
    """Bytes per second and floating-point operations per second, now."""
    return machine.read_rate(num_bytes), machine.gemm_rate()


def decode_work(arch: TextArch, num_weights: int, groups: int, rows: int, prompt: int, new: int) -> tuple[int, int]:
    """Count the bytes and floating-point operations of the average decode step.

    Args:
        num_weights: elements of the weights every step multiplies with, the head's included.
        groups: prompts, each with one cached prefix.  rows: completions.  prompt, new: tokens.

    Returns:
        bytes read once (weights, the groups' prefixes, the rows' own tails), operations.
    """
    tail = new // 2
    kv_width = 2 * arch.num_key_value_heads * arch.head_dim
    cached = arch.num_hidden_layers * kv_width * (groups * prompt + rows * tail)
    scores = 4 * arch.num_hidden_layers * arch.num_attention_heads * arch.head_dim * (prompt + tail)
    return FLOAT_BYTES * (num_weights + cached), rows * (2 * num_weights + scores)


def step_work(model: QwenVL, groups: int, rows: int, prompt: int, new: int) -> tuple[int, int]:
    """`decode_work` of a model."""
    text = model.text
    inside = [parameter for layer in (text.layers, text.norm) for parameter in layer.parameters()]
    num_weights = sum(parameter.size for parameter in [*inside, text.head_weight])
    return decode_work(model.arch.text, num_weights, groups, rows, prompt, new)


def decode_floor(
    num_bytes: int, num_flops: int, step_ms: Sequence[float], rates: Sequence[tuple[float, float]]
) -> tuple[dict[str, float], list[float]]:
    """Give the least time of a decode step, the larger of reading and multiplying, and how far steps are from it.

    Args:
        num_bytes, num_flops: of a step.  step_ms: [repetitions] what steps took.
        rates: [repetitions + 1] bytes/s and flop/s before the first repetition, between two, and after the last.

    Returns:
        medians of floors (ms) and rates; [repetitions] step over the floor at the mean of the times around it.
    """
    read_ms, multiply_ms = (
        [1000 * num / rate for rate in each]
        for num, each in zip((num_bytes, num_flops), zip(*rates, strict=True), strict=True)
    )
    around = [[(one + other) / 2 for one, other in itertools.pairwise(each)] for each in (read_ms, multiply_ms)]
    floors = [max(both) for both in zip(*around, strict=True)]
    medians = [statistics.median(each) for each in around]
    return {
        "floor_ms": round(statistics.median(floors), 4),
        "floor_read_ms": round(medians[0], 4),
        "floor_multiply_ms": round(medians[1], 4),
        "step_mb": round(num_bytes / 1e6, 2),
        "step_mflop": round(num_flops / 1e6, 1),
        "read_gb_s": round(num_bytes / medians[0] / 1e6, 1),
        "gemm_gflop_s": round(num_flops / medians[1] / 1e6, 1),
    }, [step / floor for step, floor in zip(step_ms, floors, strict=True)]
