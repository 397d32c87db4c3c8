# SPDX-License-Identifier: Apache-2.0
"""Keys and values while decoding: a prompt's once for all its rows, a growing tail per row.

Rows stand in a rectangle of groups x samples.  All rows write their newest token into the same column of the tail; a
row that joined later masks the columns before its first.  A rectangle keeps every product one batched GEMM; rows that
have stopped keep their places until `regrid` closes the gaps (compiled steps compute nothing for them).

Shape letters: B groups, S samples per group, K key/value heads, R query heads per key head, D head size, P longest
prompt, L columns of the tail, T packed prompt tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle

from ..models import fast_ops
from ..models.attention import MASKED

COLUMNS = 64
"""The tail grows by this many columns at a time."""


@dataclass
class LayerCache:
    prefix_k: paddle.Tensor
    """[B*K, D, P]; for steps on a CPU [B*K, P / block, D, block], as they read it (models/tiles.py)."""
    prefix_v: paddle.Tensor
    """[B*K, P, D]."""
    tail_k: paddle.Tensor
    """[B*K*S, D, L]; for steps on a CPU [B*K*S, L / block, D, block]."""
    tail_v: paddle.Tensor
    """[B*K*S, L, D]."""

    def astype(self, dtype: str) -> LayerCache:
        """Copy into another type."""
        return LayerCache(*(tensor.astype(dtype) for tensor in vars(self).values()))


@dataclass
class Prefill:
    """Prompts just read, waiting to become part of a cache."""

    kv: list[paddle.Tensor]
    """Per layer [T, 2*K*D]."""
    starts: np.ndarray
    """[B] first packed row of each prompt."""
    lengths: np.ndarray
    """[B]."""


def padded(length: int, multiple: int) -> int:
    """The least multiple that has room for a length."""
    return -(-length // multiple) * multiple


def _resized(tensor: paddle.Tensor, axis: int, size: int) -> paddle.Tensor:
    """Cut an axis off at `size`, or fill it up with zeros."""
    missing = size - tensor.shape[axis]
    if missing > 0:
        shape = [missing if i == axis else length for i, length in enumerate(tensor.shape)]
        return paddle.concat([tensor, paddle.zeros(shape, tensor.dtype)], axis=axis)
    return paddle.slice(tensor, [axis], [0], [size]) if missing else tensor


class Cache:
    """The caches of all layers and the masks that belong to them."""

    def __init__(self, num_kv_heads: int, repeat: int, head_dim: int, dtype: str, score_dtype: str, block: int = 1):
        """Args: dtype: of keys and values.  score_dtype: of the scores, and so of the masks.

        block: prefixes are padded to a multiple of it; with more than 1 there are no masks, as steps on a CPU look at
        `prompt_lengths` and `first_column`.
        """
        self.block = block
        self.num_kv_heads, self.repeat, self.head_dim = num_kv_heads, repeat, head_dim
        self.dtype, self.score_dtype = dtype, score_dtype
        self.layers: list[LayerCache] = []
        self.prompt_lengths = np.zeros([0], np.int64)
        self.first_column = np.zeros([0, 0], np.int64)
        """[B, S]: the tail column of each row's first token."""
        self.column = 0
        """Where the next token of every row goes."""
        self.prefix_mask: paddle.Tensor | None = None
        """[B*K, S*R, P]; None when all prompts are equally long."""
        self.tail_mask: paddle.Tensor | None = None
        """[B*K*S, R, L]."""
        self.generation = 0
        """Counts regrids: tensors of an older one are gone."""
        self.open: paddle.Tensor | None = None
        """[B*K*S, R, 1] zeros: a column of the mask that hides nothing."""

    @property
    def shape(self) -> tuple[int, int]:
        """B, S."""
        return self.first_column.shape

    @property
    def full(self) -> bool:
        """Whether the tail has no free column left."""
        return not self.layers or self.column >= self.layers[0].tail_v.shape[1]

    def regrid(self, sources: np.ndarray, groups: np.ndarray, added: Prefill | None) -> None:
        """Take a new rectangle: keep some groups and rows, append newly read prompts, drop unused columns.

        Args:
            sources: [B', S'] int: the old row number (b * S + s) that moves to this place, -1 for a fresh or dead row.
            groups: [kept] int: old group numbers, in the order of the first rows of `sources`.
            added: the prompts of the remaining rows of `sources`, or None.
        """
        self.generation += 1
        old_groups, old_samples = self.shape
        flat = sources.reshape(-1)
        old_first = self.first_column.reshape(-1)
        first = np.where(flat >= 0, old_first[np.maximum(flat, 0)] if old_groups else 0, self.column)
        shift = int(first[flat >= 0].min()) // self.block * self.block if (flat >= 0).any() else self.column
        used = self.column - shift
        columns = (used // COLUMNS + 1) * COLUMNS
        added_lengths = added.lengths if added is not None else np.zeros([0], np.int64)
        self.prompt_lengths = np.concatenate([self.prompt_lengths[groups], added_lengths])
        longest = padded(int(self.prompt_lengths.max()), self.block)
        tail_index = self._tail_index(sources, old_samples)
        prefix_index = None
        if len(groups):
            heads = np.arange(self.num_kv_heads)
            prefix_index = paddle.to_tensor((groups[:, None] * self.num_kv_heads + heads).reshape(-1))
        num_layers = len(added.kv) if added is not None else len(self.layers)
        for i_layer in range(num_layers):  # one at a time: two whole caches at once would double the memory
            prefix = self._prefix(i_layer, prefix_index, added, longest)
            tail = self._tail(i_layer, tail_index, (shift, self.column), columns)
            self.layers[i_layer : i_layer + 1] = [LayerCache(*prefix, *tail)]
        self.first_column = (first - shift).reshape(sources.shape)
        self.column = used
        if self.block == 1:
            self._make_masks(columns, longest)

    def _tail_index(self, sources: np.ndarray, old_samples: int) -> np.ndarray:
        """Old tail rows [B'*K*S'] (b, k, s order); a fresh row takes row 0, whose columns its mask hides."""
        known = np.maximum(sources, 0)
        heads = np.arange(self.num_kv_heads)[None, :, None]
        group, sample = known // max(old_samples, 1), known % max(old_samples, 1)
        return ((group[:, None] * self.num_kv_heads + heads) * old_samples + sample[:, None]).reshape(-1)

    def _prefix(self, i_layer: int, kept: paddle.Tensor | None, added: Prefill | None, longest: int):
        keys, values = [], []
        if kept is not None:
            old = self.layers[i_layer]
            axis = 2 if self.block == 1 else 1
            keys.append(_resized(paddle.gather(old.prefix_k, kept), axis, longest // self.block))
            values.append(_resized(paddle.gather(old.prefix_v, kept), 1, longest))
        if added is not None:
            offsets = np.minimum(np.arange(longest)[None], added.lengths[:, None] - 1)
            rows = paddle.to_tensor((added.starts[:, None] + offsets).reshape(-1))
            shape = [len(added.lengths), longest, 2, self.num_kv_heads, self.head_dim]
            kv = paddle.gather(added.kv[i_layer], rows).reshape(shape)
            keys.append(self._turned(kv[:, :, 0]))
            values.append(kv[:, :, 1].transpose([0, 2, 1, 3]).reshape([-1, longest, self.head_dim]))
        return (paddle.concat(keys), paddle.concat(values)) if len(keys) > 1 else (keys[0], values[0])

    def _turned(self, keys: paddle.Tensor) -> paddle.Tensor:
        """Lay out keys [B, P, K, D] as `LayerCache.prefix_k`."""
        if self.block == 1:
            return keys.transpose([0, 2, 3, 1]).reshape([-1, self.head_dim, keys.shape[1]])
        blocks = keys.shape[1] // self.block
        keys = keys.reshape([-1, blocks, self.block, self.num_kv_heads, self.head_dim])
        return keys.transpose([0, 3, 1, 4, 2]).reshape([-1, blocks, self.head_dim, self.block])

    def _tail(self, i_layer: int, index: np.ndarray, live: tuple[int, int], columns: int):
        (begin, end), size, block = live, self.head_dim, self.block
        if not self.layers or begin == end:
            keys = [size, columns] if block == 1 else [columns // block, size, block]
            return paddle.zeros([len(index), *keys], self.dtype), paddle.zeros([len(index), columns, size], self.dtype)
        old, rows = self.layers[i_layer], paddle.to_tensor(index)
        keys, values = paddle.gather(old.tail_k, rows), paddle.gather(old.tail_v, rows)[:, begin:]
        keys, axis = (keys[:, :, begin:], 2) if block == 1 else (keys[:, begin // block :], 1)
        return _resized(keys, axis, columns // block), _resized(values, 1, columns)

    def _make_masks(self, columns: int, longest: int) -> None:
        num_groups, samples = self.shape
        kv_heads, repeat = self.num_kv_heads, self.repeat
        self.prefix_mask = None
        if (self.prompt_lengths != longest).any():
            hidden = np.arange(longest)[None] >= self.prompt_lengths[:, None]
            mask = np.where(hidden, MASKED, 0.0).astype(np.float32)[:, None, None]
            mask = np.broadcast_to(mask, [num_groups, kv_heads, samples * repeat, longest])
            self.prefix_mask = paddle.to_tensor(mask.reshape([-1, samples * repeat, longest])).astype(self.score_dtype)
        place = np.arange(columns)[None, None]
        seen = (place >= self.first_column[:, :, None]) & (place < self.column)
        mask = np.where(seen, 0.0, MASKED).astype(np.float32)[:, None, :, None]
        mask = np.broadcast_to(mask, [num_groups, kv_heads, samples, repeat, columns])
        self.tail_mask = paddle.to_tensor(mask.reshape([-1, repeat, columns]), dtype=self.score_dtype)
        self.open = paddle.zeros([self.tail_mask.shape[0], repeat, 1], self.score_dtype)

    def open_column(self) -> int:
        """Make the next column visible to every row and return its number; the caller fills it in every layer."""
        column = self.column
        fast_ops.write_column(self.tail_mask, self.open, column, 2)
        self.column += 1
        return column

    def bytes(self) -> int:
        """Memory the keys and values take."""
        tensors = [tensor for layer in self.layers for tensor in vars(layer).values()]
        return sum(tensor.size * tensor.element_size() for tensor in tensors)
