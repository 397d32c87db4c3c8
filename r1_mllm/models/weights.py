# SPDX-License-Identifier: Apache-2.0
"""Parameters on disk: published safetensors folders to our model and back.

`read_tensors` and `published_tensors` are the pure core (numpy, bfloat16 as uint16 bits); `load_pretrained` and
`save_pretrained` put a model around them.  Names and layouts are in names.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from . import host, kernels, tensor_file
from .config import ModelArch
from .joining import joined
from .names import EMBEDDING, HEAD, Parameter, canonical, parameters, split
from .qwen_vl import QwenVL
from .tensor_file import Entry

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "merges.txt")
COMPANIONS = (
    "tokenizer*",
    "chat_template*",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
    "merges.txt",
    "vocab.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def resolve(name_or_path: str | Path) -> Path:
    """Give the model's folder: a folder as it is, a hub name `owner/model` downloaded (or from the local cache)."""
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return folder
    if not HUB_ID.fullmatch(str(name_or_path)):
        raise ValueError(f"{name_or_path}: no such folder; give a model folder or a hub name such as Qwen/Qwen2-VL-2B")
    try:
        return Path(snapshot_download(str(name_or_path), allow_patterns=list(HUB_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError) as error:
        raise ValueError(
            f"{name_or_path}: no such folder here, and the hub did not give it ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}). Without a network, run `hf download {name_or_path} --local-dir DIR` "
            "where there is one, copy DIR here and give its path"
        ) from error


def load_pretrained(path: str | Path, dtype: str = "float32", check_finite: bool = False) -> QwenVL:
    """Build the network that a published folder (or hub name) describes, with its weights.

    Args:
        dtype: float32, bfloat16, float16, or auto (what config.json says).
        check_finite: refuse weights that hold NaN or infinity; costs a pass over the files.
    """
    folder = resolve(path)
    arch = ModelArch.from_pretrained(folder)
    found = find_tensors(folder, arch)
    dtype = _target_dtype(dtype, arch, found)
    before = paddle.get_default_dtype()
    paddle.set_default_dtype(dtype)
    try:
        with paddle.LazyGuard():  # parameters without memory: random values would double the peak
            model = QwenVL(arch)
    finally:
        paddle.set_default_dtype(before)
    slots = dict(model.named_parameters())
    made: dict[str, paddle.Tensor] = {}

    def memory(parameter: Parameter) -> np.ndarray:
        """Take a tensor's own memory where the CPU holds it: what is read there need not be copied."""
        tensor = made[parameter.name] = paddle.empty(parameter.shape, dtype)
        host.prefer_huge_pages(tensor.data_ptr(), tensor.size * tensor.element_size())
        return host.bits(tensor, tensor_file.NUMPY_DTYPES[dtype])

    in_place = memory if kernels.on_cpu() else None
    for name, array in joined(found, arch, dtype, check_finite, in_place):
        tensor = made.pop(name) if name in made else paddle.to_tensor(array, dtype=dtype)
        assert tuple(slots[name].shape) == tuple(tensor.shape), f"{name}: {slots[name].shape} is not {tensor.shape}"
        tensor._share_buffer_to(slots.pop(name))  # set_value would allocate and draw random values first
    assert not slots, f"parameters without a published name: {sorted(slots)}"
    return model


def read_tensors(
    path: str | Path, arch: ModelArch, dtype: str = "auto", check_finite: bool = False
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (our name, array of our shape) for every parameter, one at a time.

    Everything is checked before the first one is read: one ValueError lists all that is wrong with the folder.

    Args:
        dtype: float32, bfloat16 (given as uint16 bits), float16 or auto.
    """
    found = find_tensors(Path(path), arch)
    yield from joined(found, arch, _target_dtype(dtype, arch, found), check_finite)


def find_tensors(folder: Path, arch: ModelArch) -> dict[str, Entry]:
    """Find every published tensor of the network (legacy name -> where it lies) and check names, shapes and dtypes."""
    found: dict[str, Entry] = {}
    twice = []
    for file_name, entry in _all_entries(folder):
        name = canonical(file_name)
        if name is None:
            continue
        if name in found:
            twice.append(f"{name} in {found[name].file.name} and {entry.file.name}")
        found[name] = entry
    problems = _differences(found, arch)
    if twice:
        problems.append(f"found twice ({len(twice)}): " + "; ".join(twice))
    if problems:
        raise ValueError(
            f"{folder}: the weights do not fit config.json ({arch.family}).\n  " + "\n  ".join(problems) + "\n"
            "Take config.json and all weight files from the same model"
        )
    if arch.text.tie_word_embeddings and HEAD in found:
        _check_tied(found, folder)
        del found[HEAD]
    return found


def _all_entries(folder: Path) -> Iterator[tuple[str, Entry]]:
    """Yield every tensor of the folder's weight files, which must be whole and agree with the index."""
    index = _read_index(folder)
    files = sorted(set(index.values())) if index else _files_without_index(folder)
    absent = [name for name in files if not (folder / name).is_file()]
    if absent:
        raise ValueError(f"{folder}: weight files missing: {', '.join(absent)}; download the model again")
    shards = {name: tensor_file.entries(folder / name) for name in files}
    lies = [f"{name} in {shard}" for name, shard in index.items() if name not in shards[shard]]
    if lies:
        raise ValueError(f"{folder / INDEX}: promises weights that are not there: {'; '.join(lies)}; download it again")
    for shard in shards.values():
        yield from shard.items()


def _read_index(folder: Path) -> dict[str, str]:
    """Read tensor name -> file name; empty when one file (or nothing) is there instead of an index."""
    file = folder / INDEX
    if (folder / SINGLE).is_file() or not file.is_file():
        return {}
    try:
        weight_map = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file}: not a weight index ({error!r}); download it again") from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{file}: weight_map is {weight_map!r}; download it again")
    for name, shard in weight_map.items():
        # By name, not by resolved path: the hub's cache is made of links that leave the folder.
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ValueError(
                f"{file}: places {name} in {shard!r}; only .safetensors files of this folder are read, "
                "download the model from a source you trust"
            )
    return weight_map


def _files_without_index(folder: Path) -> list[str]:
    """Name model.safetensors, or a full set of numbered shards."""
    if (folder / SINGLE).is_file():
        return [SINGLE]
    shards = sorted(path.name for path in folder.glob("*.safetensors") if SHARD.fullmatch(path.name))
    if not shards:
        cure = "download the model again"
        if any(folder.glob("*.bin")):
            cure = "convert the .bin files to safetensors (they can run code and are not opened)"
        raise ValueError(f"{folder}: no {SINGLE} and no {INDEX}; {cure}")
    totals = {SHARD.fullmatch(name).group(2) for name in shards}
    return [f"model-{i + 1:05d}-of-{total}.safetensors" for total in totals for i in range(int(total))]


def _differences(found: Mapping[str, Entry], arch: ModelArch) -> list[str]:
    """Compare what was found with what the network needs; one line per kind of difference."""
    needed = {name: shape for parameter in parameters(arch) for name, shape in parameter.sources}
    optional = {HEAD: needed[EMBEDDING]} if arch.text.tie_word_embeddings else {}
    known = {**needed, **optional}
    missing = sorted(needed.keys() - found.keys())
    surplus = sorted(found.keys() - known.keys())
    wrong = [
        f"{name} is {list(found[name].shape)}, config.json makes it {list(shape)}"
        for name, shape in known.items()
        if name in found and found[name].shape != shape
    ]
    formats = [
        f"{name} is {entry.dtype}"
        for name, entry in found.items()
        if name in known and entry.dtype not in tensor_file.NUMPY_DTYPES
    ]
    problems = []
    if missing:
        hint = "; write tie_word_embeddings true if the head is the embedding" if HEAD in missing else ""
        problems.append(f"missing ({len(missing)}): {', '.join(missing)}{hint}")
    if surplus:
        problems.append(f"surplus ({len(surplus)}): {', '.join(surplus)}")
    if wrong:
        problems.append(f"other shape ({len(wrong)}): {'; '.join(wrong)}")
    if formats:
        problems.append(f"not float32, float16 or bfloat16 ({len(formats)}): {'; '.join(formats)}")
    return problems


def _check_tied(found: Mapping[str, Entry], folder: Path) -> None:
    """Refuse a head that differs from the embedding it is said to be."""
    head, embedding = found[HEAD].read(), found[EMBEDDING].read()
    same = head.dtype == embedding.dtype and all(
        np.array_equal(head[start : start + 1024], embedding[start : start + 1024])
        for start in range(0, len(head), 1024)
    )
    if not same:
        raise ValueError(
            f"{folder}: {HEAD} differs from {EMBEDDING} but config.json says tie_word_embeddings true; "
            "set it to false to use the head, or remove the tensor"
        )


def _target_dtype(dtype: str, arch: ModelArch, found: Mapping[str, Entry]) -> str:
    """Settle `auto`: what config.json says, or the embedding's own."""
    if dtype == "auto":
        dtype = arch.weights_dtype or found[EMBEDDING].dtype
    if dtype not in tensor_file.NUMPY_DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown; use one of {', '.join(tensor_file.NUMPY_DTYPES)} or auto")
    return dtype


def published_tensors(
    state: Mapping[str, Any], arch: ModelArch, dtype: str | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (published name, array of its published shape), one at a time, bfloat16 as uint16 bits.

    Args:
        state: our name -> paddle tensor or numpy array (bfloat16 as uint16 bits); no more and no fewer than the
            network has.
        dtype: float32, bfloat16 or float16; None keeps each one's own.
    """
    for parameter in _checked(state, arch):
        yield from _split(parameter, state[parameter.name], dtype)


def _split(parameter: Parameter, value: Any, dtype: str | None) -> Iterator[tuple[str, np.ndarray]]:
    own = _dtype_name(value)
    array = value.numpy() if isinstance(value, paddle.Tensor) else value
    array = array.view(np.uint16) if own == "bfloat16" else array
    for name, part in split(parameter, array):
        yield name, tensor_file.convert(part, own, dtype or own)


def _dtype_name(value: Any) -> str:
    """Name the number format of a paddle tensor or a numpy array."""
    if isinstance(value, paddle.Tensor):
        return str(value.dtype).removeprefix("paddle.")
    return {np.dtype(np.uint16): "bfloat16"}.get(value.dtype, str(value.dtype))


def _checked(state: Mapping[str, Any], arch: ModelArch) -> list[Parameter]:
    """List the network's parameters, all of which the state must hold in their shapes."""
    needed = {parameter.name: parameter for parameter in parameters(arch)}
    problems = [f"missing: {name}" for name in needed.keys() - state.keys()]
    problems += [f"surplus: {name}" for name in state.keys() - needed.keys()]
    for name in needed.keys() & state.keys():
        shape, own = tuple(state[name].shape), _dtype_name(state[name])
        if shape != needed[name].shape:
            problems.append(f"other shape: {name} is {list(shape)}, the network's is {list(needed[name].shape)}")
        if own not in tensor_file.NUMPY_DTYPES:
            problems.append(f"other dtype: {name} is {own}")
    if problems:
        raise ValueError("these parameters are not the network's:\n  " + "\n  ".join(sorted(problems)))
    return list(needed.values())


def save_pretrained(
    model: QwenVL,
    path: str | Path,
    dtype: str | None = None,
    max_shard_bytes: float = 5e9,
    source_dir: str | Path | None = None,
) -> None:
    """Write a model as a published folder that transformers, vLLM and `load_pretrained` read.

    Args:
        dtype: of the files; None keeps the parameters' own.
        max_shard_bytes: larger models become several files and an index.
        source_dir: folder whose tokenizer, chat template and processor files are copied along.
    """
    save_state(dict(model.named_parameters()), model.arch, path, dtype, max_shard_bytes, source_dir)


def save_state(
    state: Mapping[str, Any],
    arch: ModelArch,
    path: str | Path,
    dtype: str | None = None,
    max_shard_bytes: float = 5e9,
    source_dir: str | Path | None = None,
) -> None:
    """Write parameters given by our names (see `published_tensors`) as a published folder."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    layout = {
        name: (dtype or _dtype_name(state[parameter.name]), shape)
        for parameter in _checked(state, arch)
        for name, shape in parameter.sources
    }
    tensors = published_tensors(state, arch, dtype)
    _write_shards(folder, layout, tensors, max_shard_bytes)
    config = arch.to_published_dict(layout[EMBEDDING][0])
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if source_dir is not None:
        _copy_companions(Path(source_dir), folder)


def _write_shards(folder: Path, layout: dict, tensors: Iterator[tuple[str, np.ndarray]], max_bytes: float) -> None:
    """Write the weight files, and only then let them take the place of older ones."""
    shards: list[dict] = [{}]
    room = max_bytes
    for name, (dtype, shape) in layout.items():
        size = tensor_file.num_bytes(dtype, shape)
        if shards[-1] and size > room:
            shards.append({})
            room = max_bytes
        shards[-1][name] = (dtype, shape)
        room -= size
    count = len(shards)
    names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)] if count > 1 else [SINGLE]
    for file, shard in zip(names, shards, strict=True):
        tensor_file.write(folder / f"{file}.partial", shard, islice(tensors, len(shard)))
    for old in [*folder.glob("model*.safetensors"), *folder.glob(INDEX)]:
        old.unlink()
    for file in names:
        os.replace(folder / f"{file}.partial", folder / file)
    if count > 1:
        total = sum(tensor_file.num_bytes(*one) for one in layout.values())
        weight_map = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _copy_companions(source: Path, folder: Path) -> None:
    """Copy the files a model folder needs besides its weights and config.json."""
    if source.resolve() == folder.resolve():
        return
    for pattern in COMPANIONS:
        for file in sorted(source.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
