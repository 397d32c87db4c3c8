# SPDX-License-Identifier: Apache-2.0
"""Settings of low-rank adapters, under TRL's names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

LANGUAGE_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class LoraConfig:
    use_peft: bool = False
    """Train low-rank adapters (LoRA, arXiv:2106.09685) and keep the model's own weights as they are."""
    lora_r: int = 16
    """Rank of each adapter."""
    lora_alpha: int = 32
    """Adapters' outputs are multiplied by lora_alpha / lora_r."""
    lora_dropout: float = 0.05
    """Share of an adapter's inputs dropped in training passes; never when sampling, evaluating or for the reference."""
    lora_target_modules: tuple[str, ...] = LANGUAGE_MODULES
    """Published names of linear modules (q_proj, mlp.down_proj ...), all-linear, or one regular expression for the
    whole name, such as model.layers.1[0-9].self_attn.[qv]_proj."""
    lora_exclude_modules: str | None = ".*visual.*"
    """Regular expression for whole names that get no adapter; None: none are left out."""
    adapter: str | None = None
    """Folder or hub id of an adapter (HF PEFT layout) to start from: trained further with use_peft (rank, alpha and
    targets are then its own), merged into the weights without."""

    def __post_init__(self) -> None:
        problems = []
        if self.lora_r < 1:
            problems.append(f"lora_r {self.lora_r}: must be at least 1")
        if not 0 <= self.lora_dropout < 1:
            problems.append(f"lora_dropout {self.lora_dropout}: must be at least 0 and below 1")
        if not self.lora_target_modules:
            problems.append("lora_target_modules: name at least one module")
        for pattern in (*self.lora_target_modules, self.lora_exclude_modules or ""):
            try:
                re.compile(pattern)
            except re.error as error:
                problems.append(f"LoRA module pattern {pattern!r} is no regular expression: {error}")
        if problems:
            raise ValueError("; ".join(problems))


@dataclass(frozen=True)
class ExportConfig:
    """Everything `r1-mllm export` can be told."""

    out: str
    """Folder to write; refused when it holds a model already."""
    adapter: str | None = None
    """Folder or hub id with adapter_config.json and adapter_model.safetensors; a checkpoint of a run with --use_peft
    is one."""
    checkpoint: str | None = None
    """Instead of adapter: folder of a run or of one of its checkpoints, or any model folder or hub id."""
    model: str | None = None
    """Base model, a folder or hub id; None: the one adapter_config.json names."""
    torch_dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Of the files; auto: as the base model's.  The sum is taken in float32."""
    max_shard_gb: float = 5.0
    """Size of a weight file at most, 10^9 bytes."""
    model_card: bool = True
    """Write README.md with the run's numbers."""
    run: str | None = None
    """Folder of the run the card tells of; None: the one that adapter or checkpoint lies in."""

    def __post_init__(self) -> None:
        if (self.adapter is None) == (self.checkpoint is None):
            raise ValueError("give one of --adapter and --checkpoint")
        if self.max_shard_gb <= 0:
            raise ValueError(f"max_shard_gb {self.max_shard_gb}: must be above 0")
