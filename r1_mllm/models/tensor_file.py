# SPDX-License-Identifier: Apache-2.0
"""Read and write safetensors files as numpy, one tensor at a time; bfloat16 is its bits in uint16.  No Paddle.

Reading maps the file: nothing is copied before it is used.  Writing streams: one tensor is in memory at a time.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

# Names of safetensors, of Paddle and transformers, and numpy's type for the bits.
FORMATS = {"F32": ("float32", np.float32), "F16": ("float16", np.float16), "BF16": ("bfloat16", np.uint16)}
NUMPY_DTYPES = {name: np.dtype(dtype) for name, dtype in FORMATS.values()}
FILE_DTYPES = {"int64": "I64", **{name: file_dtype for file_dtype, (name, _) in FORMATS.items()}}
WRITABLE = {"int64": np.dtype(np.int64), **NUMPY_DTYPES}
"""Also counters, which stand beside an optimizer's arrays."""
BLOCK = 1 << 20
ROWS = 32
"""Stripes hold a multiple of so many rows, as suits those who turn them (turning.py)."""
LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies."""

    file: Path
    dtype: str
    """float32, float16 or bfloat16; the file's own word for anything else."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file."""

    def read(self) -> np.ndarray:
        """Map the tensor, read-only, in its file's dtype (bfloat16 as uint16)."""
        dtype = NUMPY_DTYPES[self.dtype]
        return np.memmap(self.file, dtype, mode="r", offset=self.offset, shape=self.shape)

    def stripes(self, num_bytes: int = 1 << 20) -> Iterator[np.ndarray]:
        """Read the tensor's rows in order, about num_bytes at a time; each array is overwritten by the next.

        Reading goes through the system's read-ahead, which a mapped file touched page by page does without.
        """
        dtype, rest = NUMPY_DTYPES[self.dtype], self.shape[1:]
        row_bytes = dtype.itemsize * int(np.prod(rest, dtype=np.int64))
        rows = max(1, num_bytes // max(row_bytes, 1) // ROWS) * ROWS
        buffer = np.empty((min(rows, self.shape[0]), *rest), dtype)
        with open(self.file, "rb", buffering=0) as stream:
            stream.seek(self.offset)
            for start in range(0, self.shape[0], rows):
                part = buffer[: min(rows, self.shape[0] - start)]
                if stream.readinto(memoryview(part.reshape(-1)).cast("B")) != part.nbytes:
                    raise ValueError(f"{self.file}: ended while it was read; is it being written?")
                yield part


def entries(file: Path) -> dict[str, Entry]:
    """List a safetensors file's tensors without reading them; ValueError names the file and what is wrong with it."""
    try:
        with safe_open(file, framework="numpy"):  # the library checks sizes, overlaps and offsets
            pass
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: {_why_unreadable(file, error)}") from error
    with open(file, "rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(size))
    found = {}
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        dtype = FORMATS.get(tensor["dtype"], (tensor["dtype"],))[0]
        found[name] = Entry(file, dtype, tuple(tensor["shape"]), 8 + size + tensor["data_offsets"][0])
    return found


def _why_unreadable(file: Path, error: Exception) -> str:
    """Say what is wrong with a file that the library refused, and what helps."""
    if not file.is_file():
        return "no such file; download the model again"
    with open(file, "rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            return "is a Git LFS pointer, not the weights; run `git lfs pull` in the model folder"
    return f"not a complete safetensors file ({error}); {file.stat().st_size} bytes here, download it again"


def convert(array: np.ndarray, dtype: str, to: str) -> np.ndarray:
    """Change the number format; bfloat16 rounds to nearest even.  Gives the array itself when nothing changes.

    Args:
        array: any shape, in numpy's type of `dtype` (bfloat16: uint16 bits).
        dtype, to: float32, float16 or bfloat16.
    """
    if dtype == to:
        return array
    out = np.empty(array.shape, NUMPY_DTYPES[to])
    flat, flat_out = np.ascontiguousarray(array).reshape(-1), out.reshape(-1)
    for start in range(0, flat.size, BLOCK):  # in blocks, so that the float32 step never exists as a whole
        block = flat[start : start + BLOCK]
        wide = (block.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else block.astype(np.float32)
        flat_out[start : start + BLOCK] = _bfloat16_bits(wide) if to == "bfloat16" else wide.astype(out.dtype)
    return out


def _bfloat16_bits(wide: np.ndarray) -> np.ndarray:
    """Round float32 to the nearest bfloat16, ties to even; NaN stays NaN."""
    bits = wide.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(wide), 0x7FC0, rounded).astype(np.uint16)


def is_finite(array: np.ndarray, dtype: str) -> bool:
    """Tell whether an array (bfloat16: uint16 bits) holds neither NaN nor infinity."""
    flat = array.reshape(-1)
    blocks = (flat[start : start + BLOCK] for start in range(0, flat.size, BLOCK))
    if dtype == "bfloat16":
        return not any(((block & 0x7F80) == 0x7F80).any() for block in blocks)
    return all(np.isfinite(block).all() for block in blocks)


def num_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Size of a tensor in a file."""
    return WRITABLE[dtype].itemsize * int(np.prod(shape, dtype=np.int64))


def write(
    file: Path, layout: dict[str, tuple[str, tuple[int, ...]]], tensors: Iterable[tuple[str, np.ndarray]]
) -> None:
    """Write one safetensors file and flush it to the disk.

    Args:
        layout: name -> (dtype, shape), in the order of `tensors`.
        tensors: (name, array) in that order, in numpy's type of the dtype; taken one at a time.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses a file without it
    stop = 0
    for name, (dtype, shape) in layout.items():
        start, stop = stop, stop + num_bytes(dtype, shape)
        header[name] = {"dtype": FILE_DTYPES[dtype], "shape": list(shape), "data_offsets": [start, stop]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for (name, array), (expected, (dtype, shape)) in zip(tensors, layout.items(), strict=True):
            assert name == expected and array.shape == shape and array.dtype == WRITABLE[dtype], name
            stream.write(memoryview(np.ascontiguousarray(array).reshape(-1)).cast("B"))
        stream.flush()
        os.fsync(stream.fileno())
