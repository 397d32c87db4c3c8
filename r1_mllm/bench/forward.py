# SPDX-License-Identifier: Apache-2.0
"""Passes over packs, without and with gradients, beside the time their products alone would take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from operator import truediv
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ..data.pack import pack
from ..models import team, threads
from ..models.operations import pack_operations
from ..models.qwen_vl import QwenVL
from ..models.weights import load_pretrained
from ..processing.prompt import Processor
from ..records import Completion, Group, PackedBatch
from . import machine
from .settings import ForwardBench, messages, read_folder


def measure(config: ForwardBench) -> dict[str, Any]:
    """Time scoring `gens` completions of random tokens per prompt, and the same with a backward pass."""
    examples, stamp = read_folder(config)
    processor = Processor.from_pretrained(Path(config.model))
    model = load_pretrained(config.model, dtype="float32")
    model.recompute = config.recompute
    groups = _groups(config, [processor.encode(messages(e), e.images) for e in examples[: config.prompts]], examples)
    visual = {model.arch.image_token_id, model.arch.video_token_id}
    batches = pack(groups, config.tokens_per_pack, visual, at_least=threads.count())
    load = machine.OtherLoad()
    scoring, score_rates = _timed(lambda: _score(model, batches), config)
    training, train_rates = _timed(lambda: _train(model, batches), config)
    operations = sum(pack_operations(model.arch, batch) for batch in batches)
    tokens = sum(len(batch.ids) for batch in batches)
    result = {
        "engine": "r1-mllm",
        "paddle": paddle.__version__,
        "machine": machine.describe(),
        "size": stamp.get("size"),
        **{name: getattr(config, name) for name in ("prompts", "gens", "new", "recompute")},
        "prompt_tokens": len(groups[0].prompt.ids),
        "threads": machine.num_threads(),
        "packs": len(batches),
        "tokens": tokens,
        "gflop": round(operations / 1e9, 2),
        "gemm_gflop_s": round(statistics.median(score_rates + train_rates) / 1e9, 1),
        "others_cpu": round(load.mark(), 2),
        "peak_rss_mb": machine.peak_rss_mb(),
    }
    for name, taken, rates, times in (
        ("forward", scoring, score_rates, 1),
        ("forward_backward", training, train_rates, 3),
    ):
        seconds, floors = statistics.median(taken), [times * operations / rate for rate in rates]
        result |= {
            f"{name}_s": round(seconds, 4),
            f"{name}_tok_s": round(tokens / seconds, 1),
            f"{name}_floor_s": round(statistics.median(floors), 4),
            f"{name}_times_floor": round(statistics.median(map(truediv, taken, floors)), 2),
        }
    return result


def _groups(config: ForwardBench, prompts, examples) -> list[Group]:
    rng = np.random.default_rng(config.seed)
    groups = []
    for prompt, example in zip(prompts, examples, strict=False):
        ids = rng.integers(0, 256, [config.gens, config.new])  # plain text in every vocabulary
        logprobs = np.zeros(config.new, np.float32)
        groups.append(Group(example, prompt, [Completion(row, logprobs, "", True) for row in ids]))
    return groups


def _timed(run: Callable[[], None], config: ForwardBench) -> tuple[list[float], list[float]]:
    """Seconds of each step, and the machine's rate right before it, flop/s."""
    seconds, rates = [], []
    for _ in range(config.warmup + config.steps):
        rates.append(machine.gemm_rate())
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds[config.warmup :], rates[config.warmup :]


@paddle.no_grad()
def _score(model: QwenVL, batches: list[PackedBatch]) -> None:
    threads.run(lambda batch: model.token_logp(batch).numpy(), batches)


def _train(model: QwenVL, batches: list[PackedBatch]) -> None:
    team.run(model, lambda member, batch: member.token_logp(batch).sum().backward(), batches)
    model.clear_gradients()
