# SPDX-License-Identifier: Apache-2.0
"""Loading a checkpoint: seconds beside reading its files once, and the memory it takes on the way."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..models.config import ModelArch
from ..models.names import parameters
from ..models.weights import load_pretrained, save_state
from ..runtime import USAGE, Stop
from . import machine
from .settings import LoadBench

CHUNK = 1 << 24


def measure(config: LoadBench) -> dict[str, Any]:
    """Read the files cold, load cold, load warm; each in this order, so that one does not warm the next."""
    folder = Path(config.model)
    if config.make:
        write_random(Path(config.make), folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise Stop(
            f"{folder}: no *.safetensors; --make CONFIG_DIR writes a random checkpoint of that config.json", USAGE
        )
    size = sum(file.stat().st_size for file in files)
    forget(files)
    reading = _seconds(lambda: _read(files))
    forget(files)
    cold, peak = _load(folder, config.dtype)
    warm, _ = _load(folder, config.dtype)
    return {
        "engine": "r1-mllm",
        "machine": machine.describe(),
        "model": folder.name,
        "dtype": config.dtype,
        "checkpoint_mb": round(size / 1e6),
        "read_cold_s": round(reading, 2),
        "load_cold_s": round(cold, 2),
        "load_warm_s": round(warm, 2),
        "cold_over_read": round(cold / reading, 2),
        "peak_anonymous_mb": round(peak / 1e6),
        "peak_over_checkpoint": round(peak / size, 3),
    }


class RandomState(Mapping):
    """Parameters of an architecture as small random bfloat16 values, each made when it is asked for."""

    def __init__(self, arch: ModelArch) -> None:
        self.shapes = {parameter.name: parameter.shape for parameter in parameters(arch)}
        signs_and_sizes = np.random.default_rng(0).integers(0x3C00, 0x3D00, 1 << 20, np.uint16)  # 0.008 to 0.031
        signs_and_sizes[::2] |= 0x8000
        self.values = signs_and_sizes

    def __getitem__(self, name: str) -> np.ndarray:
        return np.resize(self.values, self.shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def write_random(config_dir: Path, folder: Path) -> None:
    """Write a checkpoint of the architecture in config_dir/config.json; it never stands in memory as a whole."""
    arch = ModelArch.from_pretrained(config_dir)
    save_state(RandomState(arch), arch, folder, source_dir=config_dir)


def forget(files: Sequence[Path]) -> None:
    """Ask the system to drop the files from its cache of pages."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def _read(files: Sequence[Path]) -> None:
    buffer = bytearray(CHUNK)
    for file in files:
        with open(file, "rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def _seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _load(folder: Path, dtype: str) -> tuple[float, int]:
    """Seconds to load, and the most anonymous memory (no file behind it) above what was there before, bytes."""
    before, peak, done = machine.anonymous_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, machine.anonymous_bytes())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    start = time.perf_counter()
    model = load_pretrained(folder, dtype)
    seconds = time.perf_counter() - start
    done.set()
    thread.join()
    peak = max(peak, machine.anonymous_bytes())
    del model
    return seconds, peak - before
