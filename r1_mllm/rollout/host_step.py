# SPDX-License-Identifier: Apache-2.0
"""A decode step on a CPU in float32: MKL's products on Paddle's weights, numpy for what stands between them.

A step of a few rows is some thirty operations a layer on tensors that fit the first-level cache; an operator of Paddle
takes 4 to 20 microseconds for each, numpy on preallocated arrays 1 to 5.  Decoder.step says what is computed and serves
every other device and type; tests/rollout/test_host_step.py holds the two together.

Shape letters: B groups, S samples per group, N = B * S rows, K key/value heads, R query heads per key head, H = K * R,
D head size, C hidden size, I intermediate size, P longest prompt, L tail columns, V vocabulary.
"""

from __future__ import annotations

import ctypes

import numpy as np
import paddle

from ..models import mkl
from ..models.attention import MASKED
from .cache import Cache

LOWEST = np.float32(mkl.LOWEST)


def view(tensor: paddle.Tensor) -> np.ndarray:
    """Give a float32 CPU tensor's memory as an array; good as long as the tensor lives."""
    memory = (ctypes.c_float * tensor.size).from_address(tensor.data_ptr())
    return np.ctypeslib.as_array(memory).reshape(tensor.shape)


class _Product:
    """out [N, M] = x [N, C] @ weight [C, M], or added to out; x and out stay where they are."""

    def __init__(self, x: np.ndarray, weight: paddle.Tensor, out: np.ndarray, add: bool):
        rows, inner = x.shape
        width = out.shape[1]
        assert tuple(weight.shape) == (inner, width) and x.flags.c_contiguous and out.flags.c_contiguous
        self.kept = x, weight, out
        scale = 1.0 if add else 0.0
        self.arguments = mkl.plain_product(
            (rows, width, inner), x.ctypes.data, weight.data_ptr(), out.ctypes.data, scale
        )
        self.run = mkl.library().cblas_sgemm

    def __call__(self) -> None:
        self.run(*self.arguments)


class _Layer:
    """A layer's products, norms and caches as arrays."""

    def __init__(self, weights, kept, buffers: _Buffers, cache: Cache):
        (groups, samples), heads = cache.shape, cache.num_kv_heads
        b = buffers
        self.norm_1, self.norm_2, self.bias = view(weights.norm_1), view(weights.norm_2), view(weights.qkv_bias)
        self.qkv = _Product(b.normed, weights.qkv, b.qkv, add=True)
        self.o = _Product(b.attended, weights.o, b.x, add=True)
        self.gate_up = _Product(b.normed, weights.gate_up, b.both, add=False)
        self.down = _Product(b.gated, weights.down, b.x, add=True)
        self.prefix_k, self.prefix_v = view(kept.prefix_k), view(kept.prefix_v)
        self.tail_k, self.tail_v = view(kept.tail_k), view(kept.tail_v)
        self.new_k = self.tail_k.reshape([groups, heads, samples, *self.tail_k.shape[1:]])
        self.new_v = self.tail_v.reshape([groups, heads, samples, *self.tail_v.shape[1:]])


class _Buffers:
    """Where a step's intermediate values stand."""

    def __init__(self, rows: int, cache: Cache, hidden: int, intermediate: int):
        (groups, samples), heads, repeat, size = cache.shape, cache.num_kv_heads, cache.repeat, cache.head_dim

        def empty(*shape: int) -> np.ndarray:
            return np.empty(shape, np.float32)

        self.x, self.normed = empty(rows, hidden), empty(rows, hidden)
        self.qkv = empty(rows, heads * (repeat + 2) * size)
        self.turned, self.rotated = empty(*self.qkv.shape), empty(*self.qkv.shape)
        self.halves = self.qkv.reshape([rows, -1, 2, size // 2])[:, :, ::-1]
        self.turned_halves = self.turned.reshape([rows, -1, 2, size // 2])
        by_head = self.rotated.reshape([groups, samples, heads, repeat + 2, size]).transpose([0, 2, 1, 3, 4])
        self.new_q, self.new_k, self.new_v = by_head[:, :, :, :repeat], by_head[:, :, :, repeat], by_head[..., -1, :]
        self.q = empty(groups, heads, samples, repeat, size)
        self.q_by_group = self.q.reshape([groups * heads, samples * repeat, size])
        self.q_by_row = self.q.reshape([groups * heads * samples, repeat, size])
        self.attended = empty(rows, heads * repeat * size)
        self.places = self.attended.reshape([groups, samples, heads, repeat, size]).transpose([0, 2, 1, 3, 4])
        self.both, self.gated = empty(rows, 2 * intermediate), empty(rows, intermediate)
        self.gate, self.up = self.both[:, :intermediate], self.both[:, intermediate:]


class HostStep:
    """Steps of one rectangle of rows; made anew whenever the cache has been regridded."""

    def __init__(self, decoder, cache: Cache):
        arch = decoder.arch
        groups, samples = cache.shape
        self.cache, self.generation = cache, cache.generation
        self.eps, self.rows = np.float32(arch.rms_norm_eps), groups * samples
        self.decoder = decoder
        self.buffers = _Buffers(self.rows, cache, arch.hidden_size, arch.intermediate_size)
        pairs = zip(decoder.layers, cache.layers, strict=True)
        self.layers = [_Layer(weights, kept, self.buffers, cache) for weights, kept in pairs]
        text = decoder.model.text
        self.embedding, self.norm = view(text.embed_tokens.weight), view(text.norm.weight)
        self.out = paddle.empty([self.rows, arch.vocab_size])
        self.head = _Product(self.buffers.normed, decoder.head, view(self.out), add=False)
        self.mask = self._mask()

    def _mask(self) -> np.ndarray | None:
        """[B*K*S, R, P + L] 0 or MASKED, or None where every row sees all of its prompt and every used column."""
        cache = self.cache
        longest, columns = self.layers[0].prefix_v.shape[1], self.layers[0].tail_v.shape[1]
        if (cache.prompt_lengths == longest).all() and not cache.first_column.any():
            return None
        prompt = np.arange(longest) >= cache.prompt_lengths[:, None, None]
        tail = np.arange(columns) < cache.first_column[:, :, None]
        hidden = np.concatenate([np.broadcast_to(prompt, [*cache.shape, longest]), tail], axis=2)
        mask = np.where(hidden, np.float32(MASKED), np.float32(0))[:, None, :, None]
        shape = [len(hidden), cache.num_kv_heads, hidden.shape[1], cache.repeat, hidden.shape[2]]
        return np.ascontiguousarray(np.broadcast_to(mask, shape)).reshape([-1, cache.repeat, hidden.shape[2]])

    def __call__(self, ids: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> paddle.Tensor:
        """Feed one token per row into the cache's next column.

        Args:
            ids: [N] int64.  cos, sin: [N, K * (R + 2) * D] float32 of the rows' positions; sin carries the sign of the
                half it multiplies.

        Returns:
            [N, V] logits; the next call overwrites them.
        """
        b, column = self.buffers, self.cache.column
        self.cache.column += 1
        sin_halves = sin.reshape(b.turned_halves.shape)
        np.take(self.embedding, ids, axis=0, out=b.x)
        for layer in self.layers:
            self._normalise(layer.norm_1)
            b.qkv[:] = layer.bias
            layer.qkv()
            np.multiply(b.qkv, cos, out=b.rotated)
            np.multiply(b.halves, sin_halves, out=b.turned_halves)
            b.rotated += b.turned
            layer.new_k[..., column], layer.new_v[:, :, :, column] = b.new_k, b.new_v
            self._attend(layer, column + 1)
            layer.o()
            self._normalise(layer.norm_2)
            layer.gate_up()
            self._gate()
            layer.down()
        self._normalise(self.norm)
        self.head()
        return self.out

    def _normalise(self, weight: np.ndarray) -> None:
        """RMS norm of x."""
        b = self.buffers
        squares = np.einsum("nc,nc->n", b.x, b.x)
        scale = 1.0 / np.sqrt(squares / np.float32(b.x.shape[1]) + self.eps)
        np.multiply(b.x, scale[:, None], out=b.normed)
        b.normed *= weight

    def _attend(self, layer: _Layer, used: int) -> None:
        """One softmax over [shared prompt | own tail]; writes `attended`."""
        b = self.buffers
        longest, (rows, repeat) = layer.prefix_v.shape[1], b.q_by_row.shape[:2]
        b.q[:] = b.new_q
        scores = np.empty([rows, repeat, longest + used], np.float32)
        by_group = scores.reshape([*b.q_by_group.shape[:2], longest + used])
        np.matmul(b.q_by_group, layer.prefix_k, out=by_group[:, :, :longest])
        np.matmul(b.q_by_row, layer.tail_k[:, :, :used], out=scores[:, :, longest:])
        if self.mask is not None:
            scores += self.mask[:, :, : longest + used]
        scores -= scores.max(axis=2, keepdims=True)
        if self.mask is not None:
            np.maximum(scores, LOWEST, out=scores)
        np.exp(scores, out=scores)
        sums = scores.sum(axis=2, keepdims=True)
        out = np.matmul(scores[:, :, longest:], layer.tail_v[:, :used])
        by_group = np.matmul(by_group[:, :, :longest], layer.prefix_v)
        out += by_group.reshape(out.shape)
        out /= sums
        b.places[:] = out.reshape(b.places.shape)

    def _gate(self) -> None:
        """silu(gate) * up."""
        b = self.buffers
        np.negative(b.gate, out=b.gated)
        with np.errstate(over="ignore"):
            np.exp(b.gated, out=b.gated)
        b.gated += 1
        np.divide(b.gate, b.gated, out=b.gated)
        b.gated *= b.up
