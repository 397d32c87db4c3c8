# SPDX-License-Identifier: Apache-2.0
"""Peak memory of each process of a small training run, beside what r1_mllm.training.sizing says it should be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config import OptimizerConfig, SftConfig, ShardingConfig, TrainingConfig
from ..data.pack import supervised_pair
from ..distributed import collectives, mesh
from ..models.config import ModelArch
from ..models.qwen_vl import QwenVL
from ..records import Prompt
from ..training import sizing
from ..training.sft import supervised_step
from ..training.sharded import Optimizer, ShardedAdamW, open_optimizer
from . import machine
from .settings import MemoryBench


def measure(config: MemoryBench) -> dict[str, Any] | None:
    """Train a little and gather every process's figures on rank 0; the others get None.

    Memory is counted above what the process has after the same on a tiny network (interpreter, Paddle, compiled loops).
    """
    place = mesh.init()
    _train(replace(config, hidden_size=128, layers=1, vocab_size=512, steps=1), place)
    collectives.barrier()
    before = resident()
    arch, settings, optimizer = _train(config, place)
    state = sum(moment.size * 4 for pair in optimizer.moments.values() for moment in pair)
    every = collectives.gather_objects({"peak": peak() - before, "before": before, "state": state})
    if place.rank != 0:
        return None
    rows = sizing.memory_estimate(arch, settings, place.world, "cpu")
    estimated = {row.name: row.bytes for row in rows}
    return {
        "engine": "r1-mllm",
        "machine": machine.describe(),
        "processes": place.world,
        "sharding": config.sharding,
        "degree": optimizer.shards.degree if isinstance(optimizer, ShardedAdamW) else 1,
        "parameters": sizing.num_parameters(arch, settings)[1],
        "weights_mb": _mb(estimated["weights"]),
        "moments_mb": [_mb(seen["state"]) for seen in every],
        "moments_estimated_mb": _mb(estimated["moments"]),
        "peak_mb": [_mb(seen["peak"]) for seen in every],
        "peak_estimated_mb": _mb(sizing.total(rows)),
        "before_mb": [_mb(seen["before"]) for seen in every],
    }


def _train(config: MemoryBench, place: mesh.Mesh) -> tuple[ModelArch, SftConfig, Optimizer]:
    """Take the steps on a fresh network."""
    arch = ModelArch.from_dict(published(config))
    settings = SftConfig(
        optimizer=OptimizerConfig(learning_rate=1e-4),
        training=TrainingConfig(tokens_per_pack=config.tokens + 8),
        sharding=ShardingConfig(config.sharding, config.sharding_parallel_degree),
    )
    model = QwenVL(arch)
    optimizer = open_optimizer(model, settings, place)
    rng = np.random.default_rng(config.seed + place.rank)
    for _ in range(config.steps):
        ids = rng.integers(0, config.vocab_size - 8, config.tokens + 8)
        prompt = Prompt(ids=ids[:8], positions=np.tile(np.arange(8), (3, 1)), next_position=8)
        supervised_step(model, [supervised_pair(prompt, ids[8:])], optimizer, 1e-4, config.tokens + 8)
    return arch, settings, optimizer


def published(config: MemoryBench) -> dict[str, Any]:
    """Write the network as a config.json: a decoder of the asked size and a vision tower that hardly counts."""
    return {
        "model_type": "qwen2_5_vl",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.hidden_size * 43 // 16,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.hidden_size // 128,
        "num_key_value_heads": config.hidden_size // 128,
        "vocab_size": config.vocab_size,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "tie_word_embeddings": True,
        "image_token_id": config.vocab_size - 4,
        "video_token_id": config.vocab_size - 3,
        "vision_start_token_id": config.vocab_size - 2,
        "vision_end_token_id": config.vocab_size - 1,
        "vision_config": {
            "depth": 1,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 64,
            "out_hidden_size": config.hidden_size,
            "fullatt_block_indexes": [0],
        },
    }


def resident() -> int:
    """Memory of this process that is in RAM now, bytes."""
    return _status("VmRSS")


def peak() -> int:
    """The most memory of this process that ever was in RAM, bytes."""
    return _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) * 1024


def _mb(num_bytes: int) -> float:
    return round(num_bytes / 1e6, 1)
