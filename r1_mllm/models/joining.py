# SPDX-License-Identifier: Apache-2.0
"""Published tensors read into arrays of our parameters: converted, joined, and ahead of who takes them.  No Paddle."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from . import tensor_file
from .config import ModelArch
from .names import Parameter, join, parameters
from .tensor_file import Entry

Item, Result = TypeVar("Item"), TypeVar("Result")

AHEAD = 2
"""Parameters read ahead while one becomes a tensor: each exists twice until then."""

AT_ONCE = 6
"""Parameters read at a time where each goes straight to its tensor: some work while others wait for the disk.  What is
read ahead costs no memory there, so a large parameter keeps nobody waiting."""


def joined(
    found: Mapping[str, Entry],
    arch: ModelArch,
    dtype: str,
    check_finite: bool,
    memory: Callable[[Parameter], np.ndarray] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Read, convert and join each parameter's published tensors, into the memory it is given if any."""

    def load(parameter: Parameter) -> tuple[str, np.ndarray]:
        sources = [found[name] for name, _ in parameter.sources]
        if check_finite:
            _check_finite(parameter, sources)
        if memory is None and parameter.layout == "plain" and [source.dtype for source in sources] == [dtype]:
            return parameter.name, sources[0].read()
        out = memory(parameter) if memory else np.empty(parameter.shape, tensor_file.NUMPY_DTYPES[dtype])
        join(parameter, _stripes(sources, dtype), out)
        return parameter.name, out

    wanted = list(parameters(arch))
    threads, most = (AT_ONCE, len(wanted)) if memory else (AHEAD, AHEAD)
    yield from _ahead(load, wanted, threads, most)


def _ahead(function: Callable[[Item], Result], items: Iterable[Item], threads: int, most: int) -> Iterator[Result]:
    """Apply function to items in order, on threads that are at most `most` items ahead of who takes the results."""
    waiting: deque = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _stripes(sources: Sequence[Entry], dtype: str) -> Iterator[np.ndarray]:
    """Yield the sources' rows a few at a time, so that no tensor exists twice."""
    for source in sources:
        for stripe in source.stripes():
            yield tensor_file.convert(stripe, source.dtype, dtype)


def _check_finite(parameter: Parameter, sources: Sequence[Entry]) -> None:
    for source, (name, _) in zip(sources, parameter.sources, strict=True):
        if not tensor_file.is_finite(source.read(), source.dtype):
            raise ValueError(f"{source.file}: {name} holds NaN or infinity; take an earlier checkpoint")
