# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm export`: a base model and an adapter become one model folder in published layout."""

from __future__ import annotations

from pathlib import Path

from ..config.lora import ExportConfig
from ..models import adapter_files
from ..models.weights import load_pretrained, resolve, save_pretrained
from ..runtime import MODEL, OUTPUT, Stop
from .companions import copy_companions


def export(config: ExportConfig) -> Path:
    """Merge and write; tokenizer, template and processor files come from the adapter's folder, else from the base."""
    out = Path(config.out)
    if any(out.glob("*.safetensors")):
        raise Stop(f"{out} holds weights already; choose another --out", OUTPUT)
    try:
        adapter = resolve(config.adapter)
        base = adapter_files.find_base(adapter, config.model)
        model = load_pretrained(base, dtype="auto")
        adapter_files.merge_folder(model, adapter)
        asked = None if config.torch_dtype == "auto" else config.torch_dtype
        save_pretrained(model, out, dtype=asked)
    except ValueError as error:
        raise Stop(str(error), MODEL) from error
    except OSError as error:
        raise Stop(f"{out} cannot be written: {error}", OUTPUT) from error
    copy_companions(adapter, out)
    copy_companions(base, out)
    return out
