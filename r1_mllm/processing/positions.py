# SPDX-License-Identifier: Apache-2.0
"""Three-axis rotary positions (time, height, width) of a prompt.

Text moves all three axes together.  A picture's tokens share the position where it starts and spread over height and
width; whatever follows continues one past the largest position used.  Letters: P tokens, I pictures and videos.
"""

from __future__ import annotations

import numpy as np


def rope_positions(
    ids: np.ndarray,
    grids: np.ndarray | None,
    vision_ids: tuple[int, ...],
    merge_size: int = 2,
    tokens_per_second: float | None = None,
    second_per_grid: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """Give each token its (time, height, width) position.

    Args:
        ids: [P] int, placeholders expanded.
        grids: [I, 3] int patches (t, h, w) in order of appearance, pictures and videos alike; None without any.
        vision_ids: ids of the image and the video placeholder.
        tokens_per_second: positions one second of video takes (Qwen2.5-VL); None: one per temporal step (Qwen2-VL).
        second_per_grid: [I] seconds per temporal step, read for grids with t > 1; None: 1 second.

    Returns:
        [3, P] int64 and the position of the next token on all three axes.

    Raises:
        ValueError: placeholders and grids disagree, or a grid does not divide into merge blocks.
    """
    ids = np.asarray(ids)
    grids = np.zeros((0, 3), np.int64) if grids is None else np.asarray(grids, np.int64).reshape(-1, 3)
    if (grids < 1).any() or (grids[:, 1:] % merge_size).any():
        raise ValueError(f"grids {grids.tolist()} must be positive with h and w multiples of {merge_size}")
    marks = np.flatnonzero(np.isin(ids, vision_ids))
    sizes = grids.prod(axis=1) // merge_size**2
    if len(marks) != sizes.sum():
        raise ValueError(f"{len(marks)} placeholder tokens for {sizes.sum()} visual tokens of {len(grids)} picture(s)")
    positions = np.empty((3, len(ids)), np.int64)
    done, next_position, first_mark = 0, 0, 0
    for index, (grid, size) in enumerate(zip(grids, sizes, strict=True)):
        start = int(marks[first_mark])
        if marks[first_mark + size - 1] != start + size - 1:
            raise ValueError(f"the {size} placeholders of picture {index} do not stand in one run")
        next_position = _place_text(positions[:, done:start], next_position)
        seconds = 1.0 if second_per_grid is None else second_per_grid[index]
        block = positions[:, start : start + size]
        block[:] = next_position + _grid_offsets(grid, merge_size)
        if tokens_per_second is not None:  # float32 in this order, as the models were trained; fractions are cut off
            steps = (block[0] - next_position).astype(np.float32) * np.float32(seconds) * np.float32(tokens_per_second)
            block[0] = next_position + steps.astype(np.int64)
        next_position = int(block.max()) + 1
        done, first_mark = start + int(size), first_mark + int(size)
    return positions, _place_text(positions[:, done:], next_position)


def _place_text(block: np.ndarray, start: int) -> int:
    """Number a run of text tokens ([3, n], written in place) from start; returns the position after it."""
    block[:] = np.arange(start, start + block.shape[1])
    return start + block.shape[1]


def _grid_offsets(grid: np.ndarray, merge_size: int) -> np.ndarray:
    """[3, t*h*w / merge_size**2] int64 indices of the merged visual tokens of one picture or video."""
    t, h, w = int(grid[0]), int(grid[1]) // merge_size, int(grid[2]) // merge_size
    return np.indices((t, h, w)).reshape(3, -1)
