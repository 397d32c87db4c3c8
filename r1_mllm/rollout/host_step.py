# SPDX-License-Identifier: Apache-2.0
"""Decode steps on a CPU in float32: weights packed in the order in which they are read, buffers in place, one call.

A step of a few rows is some thirty operations a layer on tensors that fit the first-level cache; an operator of Paddle
takes 4 to 20 microseconds for each.  `host_loops.decode_steps` does all of them in compiled code on all threads.
Decoder.step says what is computed and serves every other device and type; tests/rollout/test_host_step.py holds the
two together.

Shape letters: B groups, M samples per group, N = B * M rows, K key/value heads, R query heads per key head, D head
size, C hidden size, I intermediate size, V vocabulary.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import weakref
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import paddle

from ..models import host, tiles
from ..models.crew import crew
from .cache import Cache
from .host_loops import Chance, Drawn, Feed, Places, Sizes, decode_steps
from .trace_loops import Keep

HEAD_LIMIT = 1 << 28
"""A head of more bytes is used where it stands: reading it takes as long, and packed it would exist twice."""

SPARE_LIMIT = 1 << 26
"""Memory of larger layers is given back: the update of such a model needs it more than the next rollout."""

Tables = tuple[np.ndarray, np.ndarray]

_spare: dict[int, list[np.ndarray]] = defaultdict(list)
"""Memory of packed weights that are gone, by size: every rollout packs the same ones, and given back to the allocator
it would be cut up in between."""


class Columns(NamedTuple):
    """Columns first to first + width of a weight [K, N] (transposed: rows of [N, K]); with no width, all from there."""

    weight: paddle.Tensor
    first: int = 0
    width: int | None = None
    transposed: bool = False

    @property
    def count(self) -> int:
        """How many columns."""
        return self.width or self.weight.shape[0 if self.transposed else 1] - self.first

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the packed columns."""
        return -(-self.count // tiles.BLOCK), self.weight.shape[1 if self.transposed else 0], tiles.BLOCK


class Packed:
    """Columns of weights, one after another, as they are now and as `tiles.packed_product` reads them."""

    def __init__(self, *parts: Columns):
        sizes = [math.prod(part.shape) for part in parts]
        self.memory = _huge_pages(sum(sizes))
        if self.memory.nbytes <= SPARE_LIMIT:
            weakref.finalize(self, _spare[self.memory.size].append, self.memory)
        self.addresses: list[int] = []
        first = -self.memory.ctypes.data % host.HUGE_PAGE // 4
        for part, size in zip(parts, sizes, strict=True):
            packed = self.memory[first : first + size].reshape(part.shape)
            tiles.pack(host.array(part.weight), part.first, part.count, part.transposed, packed)
            self.addresses.append(packed.ctypes.data)
            first += size


def _huge_pages(count: int) -> np.ndarray:
    """Memory for count numbers from its first address at a page of 2 MB on; pages are whole, and nobody's before.

    With pages of 4 kB, looking them up takes 6 to 17 % of a step's products.
    """
    page = host.HUGE_PAGE // 4
    size = (count + page - 1) // page * page + page
    with contextlib.suppress(IndexError):  # layers are packed on several threads
        return _spare[size].pop()
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    try:
        memory = np.frombuffer(mmap.mmap(-1, 4 * size, **private), np.float32)
    except OSError as error:
        raise MemoryError(f"no memory for {4 * size} bytes of packed weights: {error}") from error
    host.prefer_huge_pages(memory.ctypes.data, memory.nbytes)
    return memory


class HostLayer:
    """A layer's weights as they are when sampling begins."""

    def __init__(self, weights):
        width = weights.gate_up.shape[1] // 2
        self.kept = weights.norm_1, weights.norm_2, weights.qkv_bias
        norms = [tensor.data_ptr() for tensor in self.kept]
        gate, up = Columns(weights.gate_up, 0, width), Columns(weights.gate_up, width, width)
        self.packed = Packed(Columns(weights.qkv), Columns(weights.o), gate, up, Columns(weights.down))
        qkv, o, *mlp = self.packed.addresses
        self.addresses = norms[0], qkv, norms[2], o, norms[1], *mlp


class HostStep:
    """Steps of one rectangle of rows; made anew whenever the cache has been regridded."""

    def __init__(self, decoder, cache: Cache):
        arch, text, self.crew = decoder.arch, decoder.model.text, crew()
        self.cache, self.generation, self.eps = cache, cache.generation, np.float32(arch.rms_norm_eps)
        self.sizes = Sizes(
            *cache.shape,
            *(arch.num_key_value_heads, arch.num_attention_heads // arch.num_key_value_heads, arch.head_dim),
            *(arch.hidden_size, arch.intermediate_size, arch.vocab_size),
            *(cache.layers[0].prefix_v.shape[1], cache.layers[0].tail_v.shape[1]),
        )
        self.weights = decoder.host_layers, decoder.host_head, text.norm.weight
        self.layers = np.array(
            [
                [*layer.addresses, *(tensor.data_ptr() for tensor in vars(kept).values())]
                for layer, kept in zip(decoder.host_layers, cache.layers, strict=True)
            ],
            np.int64,
        )
        self.embedding, self.head = host.array(text.embed_tokens.weight), text.head_weight
        self._make_buffers(arch.vocab_size)
        self.traces = [(group, trace) for group, trace in enumerate(decoder.traces) if trace is not None]
        self.keep = self._keep()
        nothing, no_rows, no_steps = np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros([0, 0], np.float32)
        self._no_chance = Chance(1.0, nothing, no_steps, no_rows, no_rows, 0, no_steps)
        self._nothing_drawn = Drawn(np.zeros([0, 0], np.int64), no_steps, np.zeros(1, np.int64))

    def _keep(self) -> Keep:
        groups, rows, team = self.sizes.groups, self.sizes.groups * self.sizes.samples, self.crew.size
        places = np.zeros([groups, len(self.layers) + 1, 6], np.int64)
        for group, trace in self.traces:
            places[group] = trace.addresses()
        counts, live, slots = (np.empty([team, size], np.int64) for size in (groups, rows, rows))
        return Keep(places, np.empty([groups], np.int64), counts, live, np.empty([team, groups + 1], np.int64), slots)

    def _make_buffers(self, vocab: int) -> None:
        s, team = self.sizes, self.crew.size
        rows, by_head = s.groups * s.samples, s.kv_heads * s.repeat * s.head_dim

        def empty(*shape: int) -> np.ndarray:
            return np.empty(shape, np.float32)

        self.x, self.out = empty(rows, s.hidden), paddle.zeros([rows, vocab])
        self.normed = paddle.empty([team, rows, s.hidden])
        self.cos, self.sin = empty(rows, s.head_dim // 2), empty(rows, s.head_dim // 2)
        per_thread = [team, s.samples * s.repeat]
        self.others = (
            host.array(self.normed),
            empty(rows, s.kv_heads * (s.repeat + 2) * s.head_dim),
            empty(*per_thread, s.head_dim),
            empty(*per_thread, s.prompt + s.columns),
            empty(*per_thread),
            empty(*per_thread, s.head_dim),
            empty(rows, by_head),
            empty(rows, s.intermediate),
            empty(rows, s.intermediate),
        )
        arrays = (self.x, *self.others, self.cos, self.sin)
        norm, head = self.weights[2].data_ptr(), self.weights[1].addresses[0] if self.weights[1] else 0
        self.places = Places(*(array.ctypes.data for array in arrays), norm, head, self.out.data_ptr())

    def __call__(self, ids: np.ndarray, positions: np.ndarray, tables: Tables, left: np.ndarray) -> paddle.Tensor:
        """Feed one token per row into the cache's next column.

        Args:
            ids, positions: [N] int64.  tables: cos and sin [positions, D / 2] float32.
            left: [N] int64: 0 where the row has ended.

        Returns:
            [N, V] logits, of rows that have ended any; the next call overwrites them.
        """
        self._run(ids, positions, tables, self._no_chance._replace(left=left), self._nothing_drawn)
        self.cache.column += 1
        return self.out if self.weights[1] else paddle.matmul(self.normed[0], self.head, transpose_y=True)

    def many(self, ids: np.ndarray, positions: np.ndarray, tables: Tables, chance: Chance) -> Drawn:
        """Feed tokens and draw the next ones, for as many columns as `chance` has uniforms, or fewer."""
        shape = chance.uniforms.shape
        drawn = Drawn(np.zeros(shape, np.int64), np.zeros(shape, np.float32), np.zeros(1, np.int64))
        self._run(ids, positions, tables, chance, drawn)
        num = int(drawn.steps[0])
        self.cache.column += num
        return Drawn(drawn.ids[:num], drawn.logprobs[:num], drawn.steps)

    def _run(self, ids: np.ndarray, positions: np.ndarray, tables: Tables, chance: Chance, drawn: Drawn) -> None:
        cache, feed, keep = self.cache, Feed(self.embedding, *tables, ids, positions), self.keep
        lengths = cache.prompt_lengths, cache.first_column, cache.column
        keep.first[:] = -1
        for group, trace in self.traces:
            keep.first[group] = trace.num_tokens
        keep.counts[:] = 0
        self.crew.run(decode_steps, self.layers, self.places, self.sizes, self.eps, *lengths, feed, chance, drawn, keep)
        for group, trace in self.traces:
            trace.num_tokens = int(keep.first[group])
