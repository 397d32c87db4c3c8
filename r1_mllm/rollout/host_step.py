# SPDX-License-Identifier: Apache-2.0
"""A decode step on a CPU in float32: MKL's products on Paddle's weights, compiled loops for what stands between them.

A step of a few rows is some thirty operations a layer on tensors that fit the first-level cache; an operator of Paddle
takes 4 to 20 microseconds for each.  Here a layer is four products of weights, four small ones of numpy, and six loops.
Decoder.step says what is computed and serves every other device and type; tests/rollout/test_host_step.py holds the
two together.

Shape letters: B groups, M samples per group, N = B * M rows, K key/value heads, R query heads per key head, H = K * R,
D head size, C hidden size, I intermediate size, P longest prompt, L tail columns, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import paddle

from ..models import host, mkl
from ..models.attention import MASKED
from ..models.host import array
from .cache import Cache, LayerCache


class _Buffers:
    """Where a step's intermediate values stand."""

    def __init__(self, rows: int, cache: Cache, hidden: int, intermediate: int):
        (groups, samples), heads, repeat, size = cache.shape, cache.num_kv_heads, cache.repeat, cache.head_dim

        def empty(*shape: int) -> np.ndarray:
            return np.empty(shape, np.float32)

        self.x, self.normed = empty(rows, hidden), empty(rows, hidden)
        self.qkv = empty(rows, heads * (repeat + 2) * size)
        by_head = [groups, heads, samples, repeat, size]
        self.q, self.on_prompt, self.on_tail = empty(*by_head), empty(*by_head), empty(*by_head)
        self.by_group, self.by_row = [groups * heads, samples * repeat, size], [-1, repeat, size]
        self.attended = empty(rows, heads * repeat * size)
        self.both, self.gated = empty(rows, 2 * intermediate), empty(rows, intermediate)


class HostLayer:
    """A layer's weights as they are when sampling begins."""

    def __init__(self, weights):
        self.norm_1, self.norm_2, self.bias = host.arrays(weights.norm_1, weights.norm_2, weights.qkv_bias)
        self.qkv, self.o, self.gate_up, self.down = map(
            mkl.factor, (weights.qkv, weights.o, weights.gate_up, weights.down)
        )
        self.kept = weights.norm_1, weights.norm_2, weights.qkv_bias


class _Layer:
    """A layer's products with the buffers, norms and caches as arrays."""

    def __init__(self, weights: HostLayer, kept: LayerCache, buffers: _Buffers, cache: Cache):
        (groups, samples), heads = cache.shape, cache.num_kv_heads
        b = buffers
        self.norm_1, self.norm_2, self.bias = weights.norm_1, weights.norm_2, weights.bias
        self.qkv = weights.qkv.prepared(b.normed, b.qkv, add=False)
        self.o = weights.o.prepared(b.attended, b.x, add=True)
        self.gate_up = weights.gate_up.prepared(b.normed, b.both, add=False)
        self.down = weights.down.prepared(b.gated, b.x, add=True)
        self.prefix_k, self.prefix_v, self.tail_k, self.tail_v = host.arrays(
            kept.prefix_k, kept.prefix_v, kept.tail_k, kept.tail_v
        )
        self.new_k = self.tail_k.reshape([groups, heads, samples, *self.tail_k.shape[1:]])
        self.new_v = self.tail_v.reshape([groups, heads, samples, *self.tail_v.shape[1:]])


class HostStep:
    """Steps of one rectangle of rows; made anew whenever the cache has been regridded."""

    def __init__(self, decoder, cache: Cache):
        arch = decoder.arch
        groups, samples = cache.shape
        self.cache, self.generation = cache, cache.generation
        self.eps, self.rows = arch.rms_norm_eps, groups * samples
        self.buffers = _Buffers(self.rows, cache, arch.hidden_size, arch.intermediate_size)
        pairs = zip(decoder.host_layers, cache.layers, strict=True)
        self.layers = [_Layer(weights, kept, self.buffers, cache) for weights, kept in pairs]
        text = decoder.model.text
        self.embedding, self.norm = host.arrays(text.embed_tokens.weight, text.norm.weight)
        self.out = paddle.empty([self.rows, arch.vocab_size])
        self.head = decoder.host_head.prepared(self.buffers.normed, array(self.out), add=False)
        self.mask = self._mask()
        self.loops = host.loops()

    def _mask(self) -> np.ndarray | None:
        """[B*K*M*R, P + L] 0 or MASKED, or None where every row sees all of its prompt and every used column."""
        cache = self.cache
        longest, columns = self.layers[0].prefix_v.shape[1], self.layers[0].tail_v.shape[1]
        if (cache.prompt_lengths == longest).all() and not cache.first_column.any():
            return None
        prompt = np.arange(longest) >= cache.prompt_lengths[:, None, None]
        tail = np.arange(columns) < cache.first_column[:, :, None]
        hidden = np.concatenate([np.broadcast_to(prompt, [*cache.shape, longest]), tail], axis=2)
        mask = np.where(hidden, np.float32(MASKED), np.float32(0))[:, None, :, None]
        shape = [len(hidden), cache.num_kv_heads, hidden.shape[1], cache.repeat, hidden.shape[2]]
        return np.ascontiguousarray(np.broadcast_to(mask, shape)).reshape([-1, hidden.shape[2]])

    def __call__(self, ids: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> paddle.Tensor:
        """Feed one token per row into the cache's next column.

        Args:
            ids: [N] int64.  cos, sin: [N, D / 2] float32 of the rows' positions.

        Returns:
            [N, V] logits; the next call overwrites them.
        """
        b, loops, column = self.buffers, self.loops, self.cache.column
        self.cache.column += 1
        np.take(self.embedding, ids, axis=0, out=b.x)
        for layer in self.layers:
            loops.rms_norm(b.x, layer.norm_1, self.eps, b.normed)
            layer.qkv()
            loops.decode_heads(b.qkv, layer.bias, cos, sin, column, b.q, layer.new_k, layer.new_v)
            self._attend(layer, column + 1)
            layer.o()
            loops.rms_norm(b.x, layer.norm_2, self.eps, b.normed)
            layer.gate_up()
            loops.silu_times_halves(b.both, b.gated)
            layer.down()
        loops.rms_norm(b.x, self.norm, self.eps, b.normed)
        self.head()
        return self.out

    def _attend(self, layer: _Layer, used: int) -> None:
        """One softmax over [shared prompt | own tail]; writes `attended`."""
        b, longest, width = self.buffers, layer.prefix_v.shape[1], layer.prefix_v.shape[1] + used
        scores = np.empty([b.q.size // b.q.shape[-1], width], np.float32)
        by_group, by_row = scores.reshape([*b.by_group[:2], width]), scores.reshape([-1, b.by_row[1], width])
        np.matmul(b.q.reshape(b.by_group), layer.prefix_k, out=by_group[:, :, :longest])
        np.matmul(b.q.reshape(b.by_row), layer.tail_k[:, :, :used], out=by_row[:, :, longest:])
        if self.mask is None:
            self.loops.softmax(scores)
        else:
            self.loops.masked_softmax(scores, self.mask)
        np.matmul(by_group[:, :, :longest], layer.prefix_v, out=b.on_prompt.reshape(b.by_group))
        np.matmul(by_row[:, :, longest:], layer.tail_v[:, :used], out=b.on_tail.reshape(b.by_row))
        self.loops.join_heads(b.on_prompt, b.on_tail, b.attended)
