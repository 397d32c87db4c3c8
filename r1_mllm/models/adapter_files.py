# SPDX-License-Identifier: Apache-2.0
"""Adapters on disk in the layout of HF PEFT: adapter_config.json and adapter_model.safetensors.

Tensors are named as peft names them for transformers >= 4.52 (base_model.model.model.language_model.layers.0...); the
older naming is read too.  peft stores A as [R, C] and B as [N, R], transposed as all published linear weights are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from . import lora, tensor_file
from .adapter_spec import AdapterSpec, live_name
from .names import canonical, parameters
from .qwen_vl import QwenVL
from .weights import load_pretrained, resolve

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_REFUSED = {
    "use_dora": False,
    "use_rslora": False,
    "bias": "none",
    "lora_bias": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "layers_to_transform": None,
    "fan_in_fan_out": False,
}
"""Fields of adapter_config.json that change the result and are supported at this value only."""


def is_adapter(folder: str | Path) -> bool:
    """Tell whether a folder holds an adapter."""
    return (Path(folder) / CONFIG).is_file()


def read_spec(folder: str | Path) -> AdapterSpec:
    """Read adapter_config.json; ValueError names what is not supported."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder}: no {CONFIG}; an adapter is a folder with {CONFIG} and {WEIGHTS}")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(fields, dict) or fields.get("peft_type") != "LORA":
        found = fields.get("peft_type") if isinstance(fields, dict) else fields
        raise ValueError(f"{path}: peft_type is {found!r}; only LORA is supported")
    for name, value in _REFUSED.items():
        if (fields.get(name) or None) != (value or None):
            raise ValueError(f"{path}: {name} is {fields[name]!r}; only {value!r} is supported")
    targets = fields.get("target_modules")
    return AdapterSpec(
        rank=int(fields["r"]),
        alpha=float(fields["lora_alpha"]),
        targets=(targets,) if isinstance(targets, str) else tuple(targets or ()),
        exclude=_one_pattern(fields.get("exclude_modules")),
        base=fields.get("base_model_name_or_path") or "",
    )


def _one_pattern(exclude: Any) -> str | None:
    """Join peft's list of excluded name endings into one expression; a string is one already."""
    if not exclude or isinstance(exclude, str):
        return exclude or None
    return "|".join(rf"(.*\.)?{name}" for name in exclude)


def save(model: QwenVL, folder: str | Path, dropout: float = 0.0) -> None:
    """Write the network's adapters; the folder is made."""
    folder, spec = Path(folder), lora.spec_of(model)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, adapter in lora.adapters(model):
        for letter, factor in (("A", adapter.a), ("B", adapter.b)):
            tensors[f"{_PREFIX}{live_name(name)}.lora_{letter}.weight"] = factor
    layout = {key: (factor.dtype.name.lower(), tuple(factor.shape[::-1])) for key, factor in tensors.items()}
    turned = ((key, np.ascontiguousarray(_host(factor).T)) for key, factor in tensors.items())
    tensor_file.write(folder / WEIGHTS, layout, turned)
    (folder / CONFIG).write_text(json.dumps(_config(model, spec, dropout), indent=2) + "\n", encoding="utf-8")
    base_config = json.dumps(model.arch.to_published_dict(), indent=2)  # the processor asks it for the family
    (folder / "config.json").write_text(base_config + "\n", encoding="utf-8")


def _host(factor: paddle.Tensor) -> np.ndarray:
    array = factor.numpy()
    return array.view(np.uint16) if factor.dtype == paddle.bfloat16 else array


def _config(model: QwenVL, spec: AdapterSpec, dropout: float) -> dict[str, Any]:
    targets = list(spec.targets)
    if spec.is_pattern or spec.targets == ("all-linear",):  # patterns depend on the naming, endings of names do not
        targets = [name.removeprefix("model.") for name, _ in lora.adapters(model)]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": spec.base,
        "r": spec.rank,
        "lora_alpha": spec.alpha,
        "lora_dropout": dropout,
        "target_modules": targets,
        "exclude_modules": spec.exclude,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


def load_into(model: QwenVL, folder: str | Path) -> None:
    """Fill the network's adapters from a folder; one ValueError lists every missing, surplus and mis-shaped tensor."""
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise ValueError(f"{folder}: no {WEIGHTS}")
    found = {_published(key): entry for key, entry in tensor_file.entries(path).items()}
    needed = {}
    for name, adapter in lora.adapters(model):
        needed[f"{name}.lora_A"], needed[f"{name}.lora_B"] = adapter.a, adapter.b
    problems = [f"missing: {name}" for name in needed.keys() - found.keys()]
    problems += [f"surplus: {name}" for name in found.keys() - needed.keys()]
    for name in needed.keys() & found.keys():
        if found[name].shape != tuple(needed[name].shape[::-1]):
            problems.append(f"other shape: {name} is {list(found[name].shape)}, not {needed[name].shape[::-1]}")
    if problems:
        raise ValueError(f"{path}: the adapter does not fit the model:\n  " + "\n  ".join(sorted(problems)))
    for name, factor in needed.items():
        entry, dtype = found[name], factor.dtype.name.lower()
        values = np.ascontiguousarray(tensor_file.convert(entry.read(), entry.dtype, dtype).T)
        factor.set_value(paddle.to_tensor(values, dtype=dtype))


def _published(key: str) -> str:
    """Turn peft's tensor name into MODULE.lora_A or MODULE.lora_B with the published module name."""
    name = key.removeprefix(_PREFIX).removesuffix(".weight")
    return canonical(name) or name


def find_base(folder: str | Path, base: str | None = None) -> Path:
    """Find the model an adapter belongs to: the one named here, else the one its config names."""
    name = base or read_spec(folder).base
    if not name:
        raise ValueError(f"{Path(folder) / CONFIG}: base_model_name_or_path is empty; write the base model there")
    try:
        return resolve(name)
    except ValueError as error:
        raise ValueError(
            f"{Path(folder) / CONFIG} names the base model {name}, which cannot be opened: {error}"
        ) from error


def load_any(folder: str | Path, dtype: str = "float32") -> QwenVL:
    """Build the network of a model folder, or of an adapter folder with its base."""
    return load_merged(folder, dtype) if is_adapter(folder) else load_pretrained(folder, dtype=dtype)


def load_merged(folder: str | Path, dtype: str = "float32", base: str | None = None) -> QwenVL:
    """Build the base model of an adapter with the adapter merged into its weights.

    Args:
        base: folder or hub id to use instead of the one adapter_config.json names.
    """
    model = load_pretrained(find_base(folder, base), dtype=dtype)
    merge_folder(model, folder)
    return model


def merge_folder(model: QwenVL, folder: str | Path) -> None:
    """Add an adapter folder to the weights of its base model; summed in float32, rounded once."""
    lora.attach(model, read_spec(folder), dtype="float32")
    load_into(model, folder)
    lora.merge(model)


def num_parameters(model: QwenVL) -> tuple[int, int]:
    """Count the adapters' numbers and those of the network without them."""
    own = sum(factor.size for _, adapter in lora.adapters(model) for factor in (adapter.a, adapter.b))
    return own, sum(int(np.prod(parameter.shape)) for parameter in parameters(model.arch))
