# SPDX-License-Identifier: Apache-2.0
"""Pictures alone: encoded files to patches, on the threads that work ahead of training."""

from __future__ import annotations

import time
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from ..processing.ahead import Ahead
from ..processing.image import PixelConfig, open_image, patches
from . import machine
from .settings import DataBench

FORMATS = ("JPEG", "PNG")
DISTINCT = 16
"""Pictures rendered; they are taken in turn."""


def measure(config: DataBench) -> dict[str, Any]:
    """Decode, resize, normalise and cut `num` pictures of each format, kept in memory as encoded files."""
    result: dict[str, Any] = {"engine": "r1-mllm", "machine": machine.describe()}
    result |= {name: getattr(config, name) for name in ("num", "width", "height", "workers")}
    for name in FORMATS:
        files = [_file(name, config, i) for i in range(DISTINCT)]
        for workers in sorted({0, config.workers}):
            seconds = _seconds(files, config.num, workers)
            result[f"{name.lower()}_per_s_{workers}_workers"] = round(config.num / seconds, 1)
    return result


def _file(name: str, config: DataBench, i: int) -> bytes:
    """Blurred noise: about as hard to decode as a photograph."""
    rng = np.random.default_rng([config.seed, i])
    coarse = rng.integers(0, 255, [config.height // 8, config.width // 8, 3], np.uint8)
    picture = Image.fromarray(coarse).resize((config.width, config.height), Image.Resampling.BICUBIC)
    out = BytesIO()
    picture.save(out, name, quality=90)
    return out.getvalue()


def _seconds(files: list[bytes], num: int, workers: int) -> float:
    pixels = PixelConfig()
    ahead = Ahead(lambda i: patches(open_image(files[i % DISTINCT]), pixels), workers)
    steps = [range(start, min(start + 8, num)) for start in range(0, num, 8)]
    ahead.take(steps[0])
    start = time.perf_counter()
    for step, following in zip(steps, [*steps[1:], range(0)], strict=True):
        ahead.prepare([*step, *following])
        ahead.take(step)
    seconds = time.perf_counter() - start
    ahead.close()
    return seconds
