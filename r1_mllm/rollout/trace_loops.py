# SPDX-License-Identifier: Apache-2.0
"""Which rows compiled decode steps take further, and how they keep what they compute of them (models/trace.py).

Shape letters: B groups, M samples per group, N = B * M rows, R query heads per key head, D head size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from ..models.tiles import numbers, stream

X, ROTATED, ATTENDED, MIDDLE, GATE, UP = range(6)
"""Columns of a trace's addresses: the fields of models.trace.LayerStates."""


class Keep(NamedTuple):
    """Which rows go on, and where their states are kept; `places` and `first` are as `models.trace.Trace` has them."""

    places: np.ndarray
    """[B, layers + 1, 6] int64 addresses."""
    first: np.ndarray
    """[B] int64 tokens that each group's trace holds, counted up; negative: the group has no trace."""
    counts: np.ndarray
    """[threads, B] int64 zeros, to work in: what each group's trace has got."""
    live: np.ndarray
    """[threads, N] int64 to work in: the rows that have tokens left, in order."""
    begins: np.ndarray
    """[threads, B + 1] int64 to work in: how many of them stand before each group's."""
    slots: np.ndarray
    """[threads, N] int64 to work in: their places in their groups' traces, -1 where there is none."""


@njit(inline="always")
def find_live(thread, keep, sizes, left):
    """List the rows that have tokens left; gives their number."""
    live, begins, num = keep.live[thread], keep.begins[thread], 0
    for group in range(sizes.groups):
        begins[group] = num
        for n in range(group * sizes.samples, (group + 1) * sizes.samples):
            if left[n] > 0:
                live[num] = n
                num += 1
    begins[sizes.groups] = num
    return num


@njit(inline="always")
def give_places(thread, keep, sizes):
    """Give the rows listed their places in the traces."""
    begins, slots, counts = keep.begins[thread], keep.slots[thread], keep.counts[thread]
    for group in range(sizes.groups):
        for row in range(begins[group], begins[group + 1]):
            slots[row] = -1
            if keep.first[group] >= 0:
                slots[row] = keep.first[group] + counts[group]
                counts[group] += 1


@njit(inline="always")
def keep_rows(thread, team, keep, layer, kind, samples, rows, width):
    """Copy a thread's share of the going rows [any, width] at an address."""
    live, slots, num = keep.live[thread], keep.slots[thread], keep.begins[thread, -1]
    for row in range(num * thread // team, num * (thread + 1) // team):
        if slots[row] >= 0:
            place = keep.places[live[row] // samples, layer, kind]
            stream(rows + 4 * row * width, place + 4 * slots[row] * width, width)


@njit(inline="always")
def keep_turned(thread, keep, layer, row, group, head, sizes, q, qkv):
    """Copy a key head's turned queries, q [R, D] at an address, and the key and value at the end of qkv into a going
    row's fused row: all queries, keys, values.
    """
    slot, repeat, size = keep.slots[thread, row], sizes.repeat, sizes.head_dim
    if slot < 0:
        return
    width, queries = sizes.kv_heads * (repeat + 2) * size, sizes.kv_heads * repeat
    place = keep.places[group, layer, ROTATED] + 4 * slot * width
    stream(q, place + 4 * head * repeat * size, repeat * size)
    key = numbers(place + 4 * (queries + head) * size, (size,))
    value = numbers(place + 4 * (queries + sizes.kv_heads + head) * size, (size,))
    for d in range(size):
        key[d], value[d] = qkv[repeat * size + d], qkv[(repeat + 1) * size + d]


@njit(inline="always")
def keep_gates(thread, keep, layer, row, samples, width, first, count, gate, up):
    """Copy columns first to first + count of a going row's gate and up; the addresses are of the first of them."""
    slot = keep.slots[thread, row]
    if slot < 0:
        return
    kept, at = keep.places[keep.live[thread, row] // samples, layer], 4 * (slot * width + first)
    stream(gate, kept[GATE] + at, count)
    stream(up, kept[UP] + at, count)
