# SPDX-License-Identifier: Apache-2.0
"""The process-wide random generators (Python, NumPy, Paddle) as JSON.

Training draws from seeds derived per step, so these states are a safety net for whatever else draws.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import paddle


def state() -> dict[str, Any]:
    """Return the three generators' states as plain JSON values."""
    version, words, gauss_next = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(words), gauss_next],
        "numpy": [kind, keys.tolist(), position, has_gauss, cached],
        "paddle": [_paddle_fields(generator) for generator in paddle.get_rng_state()],
    }


def restore(saved: dict[str, Any]) -> None:
    """Set the three generators; a state Paddle does not take over exactly is an error."""
    version, words, gauss_next = saved["python"]
    random.setstate((version, tuple(words), gauss_next))
    kind, keys, position, has_gauss, cached = saved["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    current = paddle.get_rng_state()
    if len(current) != len(saved["paddle"]):
        return  # saved on another kind of device: its generator means nothing here
    generators = []
    for like, fields in zip(current, saved["paddle"], strict=True):
        generator = type(like).__new__(type(like))  # setting the state of one that exists does nothing
        generator.__setstate__(tuple(fields))
        generators.append(generator)
    paddle.set_rng_state(generators)
    if [_paddle_fields(generator) for generator in paddle.get_rng_state()] != saved["paddle"]:
        raise ValueError("Paddle did not take over the saved random state; the checkpoint's rng file is damaged")


def _paddle_fields(generator: Any) -> list[Any]:
    """Return (device, seed, offset, engine text as character codes) of one generator."""
    return [list(field) if isinstance(field, (list, tuple)) else field for field in generator.__getstate__()]
