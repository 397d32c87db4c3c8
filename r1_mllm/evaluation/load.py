# SPDX-License-Identifier: Apache-2.0
"""The model of an evaluation: engine, processor and the dtype its weights are kept in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import paddle

from ..config import EvalConfig, RolloutConfig
from ..config.chat import ChatConfig
from ..config.serving import ServeConfig
from ..models.adapter_files import load_any
from ..models.weights import resolve
from ..processing.prompt import Processor
from ..rollout.engine import Engine
from ..runtime import MODEL, Stop


@dataclass(frozen=True)
class Loaded:
    engine: Engine
    processor: Processor
    dtype: str


def load(model_dir: Path, config: EvalConfig, rollout: RolloutConfig | None = None) -> Loaded:
    """Load weights, tokenizer and picture limits from one folder, which decides the model family.

    Args:
        rollout: how to sample; None: greedily.
    """
    dtype = settle_dtype(config.dtype, paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0)
    if dtype != config.dtype:
        print(f"computing in {dtype}" + ("" if config.dtype == "auto" else f": {config.dtype} needs a GPU"))
    processor = Processor.from_pretrained(model_dir, config.min_pixels, config.max_pixels, config.chat_template)
    model = load_any(model_dir, dtype)
    model.attn_implementation = config.attn_implementation
    model.eval()
    rollout = rollout or RolloutConfig(temperature=0.0, max_completion_length=config.max_new_tokens)
    return Loaded(Engine(model, processor.tokenizer, rollout), processor, dtype)


def load_asked(config: ChatConfig | ServeConfig) -> Loaded:
    """Load the model a command was asked for; one that cannot be read ends the program."""
    shared = {"model_path", "dtype", "attn_implementation", "min_pixels", "max_pixels", "chat_template"}
    asked = EvalConfig(**{name: value for name, value in vars(config).items() if name in shared})
    try:
        return load(resolve(config.model_path), asked)
    except (ValueError, OSError) as error:
        raise Stop(str(error), MODEL) from error


def settle_dtype(asked: str, has_gpu: bool) -> str:
    """Give the dtype to compute in: bfloat16 unless asked otherwise; a CPU has no matmul smaller than float32."""
    if not has_gpu:
        return "float32"
    return "bfloat16" if asked == "auto" else asked
