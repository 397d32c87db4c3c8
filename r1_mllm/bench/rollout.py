# SPDX-License-Identifier: Apache-2.0
"""Sampling alone: tokens per second, and a decode step beside the least this machine could take for it."""

from __future__ import annotations

import statistics
import time
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
    """Time whole rollouts and rollouts of one token; the difference is the decode steps'."""
    examples, stamp = read_folder(config)
    folder = Path(config.model)
    processor = Processor.from_pretrained(folder)
    model = load_pretrained(folder, dtype="float32")
    sampling = RolloutConfig(
        max_completion_length=config.new, temperature=config.temperature, top_p=config.top_p, top_k=config.top_k
    )
    engine = LengthEngine(model, processor.tokenizer, sampling)
    prompts = [processor.encode(messages(example), example.images) for example in examples[: config.prompts]]
    whole, first, others = [], [], []
    load = machine.OtherLoad()
    for repetition in range(config.warmup + config.steps):
        for length, seconds in ((1, first), (config.new, whole)):
            start = time.perf_counter()
            engine.generate(prompts, config.gens, seed=repetition, max_new_tokens=length)
            seconds.append(time.perf_counter() - start)
        others.append(load.mark())
    whole, first = (statistics.median(seconds[config.warmup :]) for seconds in (whole, first))
    step_ms = 1000 * (whole - first) / max(config.new - 1, 1)
    rows = config.prompts * config.gens
    floor = decode_floor(model, config.prompts, rows, len(prompts[0].ids), config.new)
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
        "rollout_s": round(whole, 4),
        "prefill_s": round(first, 4),
        "rollout_tok_s": round(rows * config.new / whole, 1),
        "decode_tok_s": round(1000 * rows / step_ms, 1),
        "decode_step_ms": round(step_ms, 4),
        **floor,
        "times_floor": round(step_ms / floor["floor_ms"], 2),
        "others_cpu": [round(cores, 2) for cores in others[config.warmup :]],
        "peak_rss_mb": machine.peak_rss_mb(),
    }


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


def decode_floor(model: QwenVL, groups: int, rows: int, prompt: int, new: int) -> dict[str, float]:
    """Measure the machine and give the least time of a decode step: the larger of reading and multiplying, ms."""
    text = model.text
    inside = [parameter for layer in (text.layers, text.norm) for parameter in layer.parameters()]
    num_weights = sum(parameter.size for parameter in [*inside, text.head_weight])
    num_bytes, num_flops = decode_work(model.arch.text, num_weights, groups, rows, prompt, new)
    bytes_per_second, flops_per_second = machine.read_rate(num_bytes), machine.gemm_rate()
    read_ms, multiply_ms = 1000 * num_bytes / bytes_per_second, 1000 * num_flops / flops_per_second
    return {
        "floor_ms": round(max(read_ms, multiply_ms), 4),
        "floor_read_ms": round(read_ms, 4),
        "floor_multiply_ms": round(multiply_ms, 4),
        "step_mb": round(num_bytes / 1e6, 2),
        "step_mflop": round(num_flops / 1e6, 1),
        "read_gb_s": round(bytes_per_second / 1e9, 1),
        "gemm_gflop_s": round(flops_per_second / 1e9, 1),
    }
