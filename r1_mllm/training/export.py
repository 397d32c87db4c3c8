# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm export`: a checkpoint, or a base model and an adapter, become one model folder with a card."""

from __future__ import annotations

from pathlib import Path

from ..config.lora import ExportConfig
from ..models import adapter_files
from ..models.weights import load_pretrained, resolve, save_pretrained
from ..report.card import run_of, write_card
from ..runtime import MODEL, OUTPUT, Stop
from .companions import copy_companions


def export(config: ExportConfig) -> Path:
    """Merge, cast, cut into files and write; tokenizer, template and processor files come from the checkpoint's or
    adapter's folder, else from the base.
    """
    out = Path(config.out)
    if any(out.glob("*.safetensors")):
        raise Stop(f"{out} holds weights already; choose another --out", OUTPUT)
    try:
        source = resolve(config.adapter or config.checkpoint)
        merges = config.adapter is not None or adapter_files.is_adapter(source)
        base = adapter_files.find_base(source, config.model) if merges else source
        model = load_pretrained(base, dtype="auto")
        if merges:
            adapter_files.merge_folder(model, source)
        asked = None if config.torch_dtype == "auto" else config.torch_dtype
        save_pretrained(model, out, asked, config.max_shard_gb * 1e9)
    except ValueError as error:
        raise Stop(str(error), MODEL) from error
    except OSError as error:
        raise Stop(f"{out} cannot be written: {error}", OUTPUT) from error
    for folder in dict.fromkeys((source, base)):
        copy_companions(folder, out)
    if config.model_card:
        run = Path(config.run) if config.run else run_of(source)
        named = config.model or (config.checkpoint if not merges else str(base))
        write_card(out, named, asked or model.dtype, run)
    return out
