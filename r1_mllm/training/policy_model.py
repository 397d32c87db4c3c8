# SPDX-License-Identifier: Apache-2.0
"""The network a run trains: all weights, one tower, or adapters."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle

from ..config import GrpoConfig
from ..models import adapter_files, lora
from ..models.adapter_spec import AdapterSpec
from ..models.qwen_vl import QwenVL
from ..models.weights import load_pretrained, resolve, save_pretrained, save_state
from ..runtime import MODEL, Stop

log = logging.getLogger(__name__)


def open_policy(source: Path, config: GrpoConfig, resumed: Path | None = None) -> QwenVL:
    """Load what a run trains, frozen where the settings say so.

    Args:
        source: the model folder the run starts from; with adapters also where the base weights always come from.
        resumed: the checkpoint to continue from.
    """
    if config.lora.use_peft:
        return _with_adapters(source, config, resumed)
    model = load_model(resumed, config) if resumed else load_start(source, config)
    model.set_freeze_vision(config.model.freeze_vision)
    model.set_freeze_language(config.model.freeze_language)
    if all(parameter.stop_gradient for parameter in model.parameters()):
        raise Stop("freeze_vision and freeze_language together leave nothing to train; switch one off")
    return model


def write_policy(model: QwenVL, config: GrpoConfig, folder: Path) -> None:
    """Write a checkpoint's weights: the whole network in published layout, or the adapters in HF PEFT's."""
    if config.lora.use_peft:
        adapter_files.save(model, folder, config.lora.lora_dropout)
    else:
        save_pretrained(model, folder)


def copied_policy(model: QwenVL) -> Callable[[Path], None]:
    """Copy all weights to host memory; what is given writes the copy as `write_policy` would have written them now."""
    copies = {}
    for name, parameter in model.named_parameters():
        array = np.array(parameter.numpy())
        copies[name] = array.view(np.uint16) if parameter.dtype == paddle.bfloat16 else array
    return lambda folder: save_state(copies, model.arch, folder)


def manifest_facts(model: QwenVL, config: GrpoConfig) -> dict[str, str]:
    """Say in every manifest which model the adapters belong to."""
    return {"base_model": lora.spec_of(model).base} if config.lora.use_peft else {}


def load_start(source: Path, config: GrpoConfig) -> QwenVL:
    """Load the weights a run starts from, --adapter merged into them."""
    model = load_model(source, config)
    if config.lora.adapter:
        try:
            adapter_files.merge_folder(model, resolve(config.lora.adapter))
        except ValueError as error:
            raise Stop(str(error), MODEL) from error
    return model


def load_model(folder: Path, config: GrpoConfig) -> QwenVL:
    """Load a network with the run's settings for dtype, attention and recomputation."""
    try:
        model = load_pretrained(folder, dtype=choose_dtype(config))
    except ValueError as error:
        if adapter_files.is_adapter(folder):
            base = adapter_files.read_spec(folder).base
            message = f"{folder} is an adapter, not a whole model: --model_name_or_path {base} --adapter {folder}"
            raise Stop(message, MODEL) from error
        raise Stop(str(error), MODEL) from error
    model.attn_implementation = config.model.attn_implementation
    model.recompute = config.model.recompute or config.sharding.recompute
    return model


def choose_dtype(config: GrpoConfig) -> str:
    """Settle what the weights are kept in: float32 on a CPU, else what was asked for, else what the GPU has."""
    asked = config.model.torch_dtype
    if asked == "auto" and (config.training.bf16 or config.training.fp16):
        asked = "bfloat16" if config.training.bf16 else "float16"
    if paddle.get_device() == "cpu":
        if asked not in ("auto", "float32"):
            log.warning("computing in float32: Paddle multiplies no %s on a CPU", asked)
        return "float32"
    if asked != "auto":
        return asked
    return "bfloat16" if paddle.device.cuda.get_device_capability()[0] >= 8 else "float16"


def _with_adapters(source: Path, config: GrpoConfig, resumed: Path | None) -> QwenVL:
    settings = config.lora
    if config.model.freeze_language:
        raise Stop("use_peft and freeze_language: adapters keep the language model's weights as they are; choose one")
    model = load_model(source, config)
    name = config.model.model_name_or_path
    base = str(Path(name).expanduser().resolve()) if Path(name).expanduser().is_dir() else name
    try:
        start = resumed or (resolve(settings.adapter) if settings.adapter else None)
        if start:
            spec = replace(adapter_files.read_spec(start), base=base)
        else:
            targets = settings.lora_target_modules
            spec = AdapterSpec(settings.lora_r, settings.lora_alpha, targets, settings.lora_exclude_modules, base)
        lora.attach(model, spec, settings.lora_dropout, config.training.seed)
        if start:
            adapter_files.load_into(model, start)
    except ValueError as error:
        raise Stop(str(error), MODEL) from error
    if config.model.freeze_vision and not model.freeze_vision:
        raise Stop("freeze_vision, but lora_target_modules chooses modules of the vision tower; exclude them")
    own, rest = adapter_files.num_parameters(model)
    log.info("training %d numbers of adapters (rank %d) beside %d that stay", own, spec.rank, rest)
    return model
