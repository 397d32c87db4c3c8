# SPDX-License-Identifier: Apache-2.0
"""An optimizer's state on disk: one safetensors file of whole float32 arrays under structured names, and the step.

It is written and read an array at a time, so that neither takes memory beside what training has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..models import tensor_file

STEP = "step"
"""Name of the number of steps taken, [1] int64."""

State = Mapping[str, np.ndarray]
Write = Callable[[Path | None], None]
"""Put a state together, on all ranks, and write it where a path is given."""
Shapes = Mapping[str, tuple[int, ...]]


class StateFile(State):
    """The arrays of a file, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        """Raises: safetensors.SafetensorError, OSError: not a whole safetensors file."""
        self._file = safe_open(path, framework="numpy")
        self._names = sorted(self._file.keys())

    @property
    def shapes(self) -> Shapes:
        """Name -> shape, without reading arrays."""
        return {name: tuple(self._file.get_slice(name).get_shape()) for name in self._names}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self:
            raise KeyError(name)
        return self._file.get_tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def check(state: State, expected: Shapes) -> None:
    """Refuse a state whose names or shapes differ from what the optimizer has, in one message that lists all."""
    found = state.shapes if isinstance(state, StateFile) else {name: tuple(a.shape) for name, a in state.items()}
    wrong = [f"{name}: missing" for name in expected if name not in found]
    wrong += [f"{name}: surplus" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        if found[name] != expected[name]:
            wrong.append(f"{name}: {found[name]} instead of {expected[name]}")
    if wrong:
        raise ValueError("the optimizer state does not fit the model: " + "; ".join(sorted(wrong)))


def write(path: Path, shapes: Shapes, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write arrays in the order of `shapes`, taken one at a time, and flush them to the disk."""
    layout = {name: ("int64" if name == STEP else "float32", shape) for name, shape in shapes.items()}
    tensor_file.write(path, layout, arrays)


def gather(state: State | Write | None, path: Path | None) -> Exception | None:
    """Write a state, or call what does; on every rank, one of them with a path.

    Returns:
        The disk's error, if there was one: all ranks have then done their part, and the caller decides.
    """
    try:
        if callable(state):
            state(path)
        elif state is not None and path is not None:
            save_file({name: _host(name, value) for name, value in state.items()}, path)
    except (OSError, SafetensorError) as error:
        return error
    return None


def _host(name: str, value: Any) -> np.ndarray:
    """Copy an optimizer array to host memory as it is."""
    array = np.ascontiguousarray(value if isinstance(value, np.ndarray) else value.numpy())
    if array.dtype == np.uint16:
        raise ValueError(f"optimizer state {name!r} is bfloat16; keep it in float32")
    return array
