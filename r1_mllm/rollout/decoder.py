# SPDX-License-Identifier: Apache-2.0
"""Reading prompts and taking one decode step for a rectangle of rows, with as few operators as it takes.

Shape letters: B groups, S samples per group, K key/value heads, R query heads per key head, H = K * R, D head size,
P longest prompt, L tail columns, V vocabulary, T packed prompt tokens.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import paddle
from paddle.nn import functional as F

from ..models import fast_ops, host, kernels, lora, threads
from ..models.config import TextArch
from ..models.layers import half_turn
from ..models.qwen_vl import QwenVL, run_block
from ..models.text import DecoderLayer, rope_angles
from ..models.trace import Trace
from ..records import Prompt
from .cache import Cache, LayerCache, Prefill
from .distinct import Distinct

if TYPE_CHECKING:
    from .host_step import HostLayer, HostStep, Packed
    from .sampling import Sampler


def _split_images(prompt: Prompt) -> list[tuple[np.ndarray, np.ndarray]]:
    """(pixels [N_i, 1176], grid [3]) of each picture of a prompt."""
    if prompt.grids is None or len(prompt.grids) == 0:
        return []
    borders = np.cumsum(prompt.grids.prod(axis=1))[:-1]
    return list(zip(np.split(prompt.pixels, borders), prompt.grids, strict=True))


@functools.cache
def _host_step() -> ModuleType:
    """The module of steps on a CPU; imported when first needed, it needs numba."""
    return importlib.import_module(".host_step", __package__)


@dataclass
class LayerWeights:
    """A decoder layer's weights; queries, keys and values of a key head stand together: [C, K * (R + 2) * D]."""

    norm_1: paddle.Tensor
    qkv: paddle.Tensor
    qkv_bias: paddle.Tensor
    o: paddle.Tensor
    norm_2: paddle.Tensor
    gate_up: paddle.Tensor
    down: paddle.Tensor


def _layer_weights(layer: DecoderLayer, arch: TextArch) -> LayerWeights:
    kv_heads, size = arch.num_key_value_heads, arch.head_dim
    repeat = arch.num_attention_heads // kv_heads
    heads = np.arange(arch.num_attention_heads + 2 * kv_heads)
    queries, keys, values = np.split(heads, [arch.num_attention_heads, arch.num_attention_heads + kv_heads])
    order = np.concatenate([queries.reshape([kv_heads, repeat]), keys[:, None], values[:, None]], axis=1)
    order = paddle.to_tensor(order.reshape(-1))
    qkv, mlp = layer.attn.qkv, layer.mlp
    by_head = qkv.effective_weight.reshape([-1, len(heads), size])
    return LayerWeights(
        layer.input_layernorm.weight,
        paddle.index_select(by_head, order, axis=1).flatten(1),
        paddle.gather(qkv.bias.reshape([-1, size]), order).flatten(),
        layer.attn.o.effective_weight,
        layer.post_attention_layernorm.weight,
        mlp.gate_up.effective_weight,
        mlp.down.effective_weight,
    )


@dataclass
class Ends:
    """When the rows of some decode steps end."""

    stop_ids: np.ndarray
    """[any] int64."""
    left: np.ndarray
    """[B*S] int64 tokens each row still takes at most; 0: it has ended."""
    least: int
    """Steps end once so few rows go on."""


class Decoder:
    """A model ready to decode: its weights as they are now, and rotary tables by position."""

    def __init__(self, model: QwenVL, cache_dtype: str = "auto"):
        """Args: cache_dtype: of keys and values; auto: the model's own."""
        self.model, self.arch = model, model.arch.text
        self.cache_dtype = model.dtype if cache_dtype == "auto" else cache_dtype
        self.casts = self.cache_dtype != model.dtype
        self.head = model.text.head_weight
        self.turn = half_turn(self.arch.head_dim, model.dtype)
        self.tables: tuple[paddle.Tensor, paddle.Tensor] | None = None
        self.num_positions = 0
        self.on_host = host.serves(self.head) and not self.casts
        self.host_step: HostStep | None = None
        self.traces: Sequence[Trace | None] = ()
        """Of the cache's groups: take what steps compute; for steps on a CPU only."""

    @functools.cached_property
    def layers(self) -> list[LayerWeights]:
        """The layers' weights for steps in Paddle's operators."""
        return [_layer_weights(layer, self.arch) for layer in self.model.text.layers]

    @functools.cached_property
    def host_layers(self) -> list[HostLayer]:
        """The layers' weights for steps of `HostStep`."""
        make, layers = _host_step().HostLayer, self.model.text.layers
        return threads.run(lambda layer: make(_layer_weights(layer, self.arch)), layers)

    @functools.cached_property
    def host_head(self) -> Packed | None:
        """The head's weight for steps of `HostStep`; None where it is too large to exist twice."""
        module = _host_step()
        if 4 * self.head.size > module.HEAD_LIMIT:
            return None
        return module.Packed(module.Columns(self.head, transposed=True))

    def logits(self, hidden: paddle.Tensor) -> paddle.Tensor:
        """Logits [rows, V] of normed states [rows, C]."""
        return paddle.matmul(hidden, self.head, transpose_y=True)

    def new_cache(self) -> Cache:
        arch = self.arch
        repeat = arch.num_attention_heads // arch.num_key_value_heads
        sizes = arch.num_key_value_heads, repeat, arch.head_dim
        return Cache(*sizes, self.cache_dtype, self.model.dtype, _host_step().tiles.BLOCK if self.on_host else 1)

    def encode_images(self, prompts: Sequence[Prompt]) -> list[paddle.Tensor | None]:
        """Visual tokens [M, C] of each prompt, or None; a picture that several prompts share is encoded once."""
        distinct = Distinct()
        unique: list[tuple[np.ndarray, np.ndarray]] = []
        which: list[list[int]] = []
        for prompt in prompts:
            which.append([])
            for pixels, grid in _split_images(prompt):
                which[-1].append(distinct.number(grid.tobytes(), pixels))
                if distinct.count > len(unique):
                    unique.append((pixels, grid))
        lanes = np.array_split(np.arange(len(unique)), threads.lanes(len(unique)))
        found = threads.run(lambda lane: self._embed([unique[i] for i in lane]), [lane for lane in lanes if len(lane)])
        tokens = [tensor for part in found for tensor in part]
        return [paddle.concat([tokens[i] for i in members]) if members else None for members in which]

    def _embed(self, images: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[paddle.Tensor]:
        grids = np.stack([grid for _, grid in images])
        tokens = self.model.embed_images(np.concatenate([pixels for pixels, _ in images]), grids)
        sizes = grids.prod(axis=1) // self.model.arch.vision.merge_size**2
        return [tokens] if len(images) == 1 else paddle.split(tokens, sizes.tolist())

    def prefill(
        self, prompts: Sequence[Prompt], visual: Sequence[paddle.Tensor | None]
    ) -> tuple[Prefill, paddle.Tensor]:
        """Read prompts in one packed pass; `visual` is what `encode_images` gave for them.

        Returns:
            what the cache needs, and the logits [prompts, V] of the first completion token.
        """
        read, last = self.states(prompts, visual)
        return read, self.logits(last)

    def states(
        self, prompts: Sequence[Prompt], visual: Sequence[paddle.Tensor | None]
    ) -> tuple[Prefill, paddle.Tensor]:
        """As `prefill`, with the normed states [prompts, C] of the prompts' last tokens instead of their logits."""
        lengths = np.array([len(prompt.ids) for prompt in prompts])
        ends = np.cumsum(lengths)
        ids = np.concatenate([prompt.ids for prompt in prompts])
        positions = np.concatenate([prompt.positions for prompt in prompts], axis=1)
        images = [tokens for tokens in visual if tokens is not None]
        vision_ids = [self.model.arch.image_token_id, self.model.arch.video_token_id]
        rows = np.flatnonzero(np.isin(ids, vision_ids))
        x = self.model.embed(ids, rows, paddle.concat(images) if images else None)
        kv: list[paddle.Tensor] = []
        structure = self.model.text.structure(positions, np.repeat(ends, lengths), self.model.flash)
        last = self.model.text(x, structure, run_block, kv, ends - 1)
        return Prefill(kv, ends - lengths, lengths), last

    def _rotary(self, positions: np.ndarray) -> tuple[paddle.Tensor, paddle.Tensor]:
        """cos and sin [rows * K * (R + 2), D] at positions [rows]."""
        self._reach(int(positions.max()) + 1)
        rows = paddle.to_tensor(positions)
        return tuple(fast_ops.reshape(paddle.gather(table, rows), [-1, self.arch.head_dim]) for table in self.tables)

    def _reach(self, need: int) -> None:
        """Make the rotary tables hold `need` positions; they grow by doubling."""
        if need > self.num_positions:
            self.num_positions = max(need, 2 * self.num_positions, 512)
            angles = rope_angles(np.tile(np.arange(self.num_positions), [3, 1]), self.arch)
            if self.on_host:
                half = angles[:, : self.arch.head_dim // 2]
                self.tables = np.cos(half, dtype=np.float32), np.sin(half, dtype=np.float32)
            else:
                self.tables = tuple(paddle.to_tensor(table).astype(self.model.dtype) for table in self._wide(angles))

    def _wide(self, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Repeat cos and sin [positions, D] over the heads of a row: R scaled queries, a key, a value that stays."""
        heads, kv_heads = self.arch.num_attention_heads, self.arch.num_key_value_heads
        repeat, scale = heads // kv_heads, self.arch.head_dim**-0.5
        per_head = np.array([scale] * repeat + [1.0, 0.0], np.float32)[:, None]
        tables = [turned[:, None] * per_head for turned in (np.cos(angles), np.sin(angles))]
        tables[0][:, -1] = 1.0
        return tuple(np.tile(table, [1, kv_heads, 1]).reshape([len(angles), -1]) for table in tables)

    def _steps_of(self, cache: Cache) -> HostStep:
        """The compiled steps of the cache's present rectangle."""
        known = self.host_step
        if known is None or known.cache is not cache or known.generation != cache.generation:
            self.host_step = _host_step().HostStep(self, cache)
        return self.host_step

    @property
    def leaves_traces(self) -> bool:
        """Whether steps can leave behind what the policy's own pass would compute: compiled ones, without adapters."""
        return self.on_host and next(lora.adapters(self.model), None) is None

    @property
    def draws(self) -> bool:
        """Whether `steps` is there: compiled steps, and logits that are computed inside them."""
        return self.on_host and self.host_head is not None

    def steps(
        self, ids: np.ndarray, positions: np.ndarray, cache: Cache, sampler: Sampler, uniforms: np.ndarray, ends: Ends
    ) -> tuple[np.ndarray, np.ndarray]:
        """Feed one token per row and draw the next, several times; only where `draws`.

        Args:
            ids, positions: [B*S] int64 as for `step`.
            sampler: one whose tokens are plainly drawn.
            uniforms: [K, B*S] float32; K is the most steps, for which the tail must have columns.
            ends: when rows end.

        Returns:
            ids [k, B*S] int64 and logprobs [k, B*S] float32 of the k steps that were taken; those of rows that have
            ended mean nothing.
        """
        self._reach(int(positions.max()) + len(uniforms) + 1)
        steps = self._steps_of(cache)
        work = np.empty([steps.crew.size, self.arch.vocab_size], np.float32)
        chance = _host_step().Chance(
            sampler.config.temperature, sampler.allowed[0], uniforms, ends.stop_ids, ends.left, ends.least, work
        )
        drawn = steps.many(ids, positions, self.tables, chance)
        return drawn.ids, drawn.logprobs

    def step(self, ids: np.ndarray, positions: np.ndarray, cache: Cache, going: np.ndarray) -> paddle.Tensor:
        """Feed one token per row.

        Args:
            ids: [B*S] int64 newest tokens.  positions: [B*S] int64.  cache: takes their keys and values.
            going: [B*S] int64: 0 where a row has ended; what is computed of it means nothing and is not kept.

        Returns:
            [B*S, V] logits of the next token.
        """
        if self.on_host:
            self._reach(int(positions.max()) + 1)
            return self._steps_of(cache)(ids, positions, self.tables, going)
        text, eps, norm = self.model.text, self.arch.rms_norm_eps, kernels.rms_norm
        column = cache.open_column()
        rotary = self._rotary(positions)
        x = F.embedding(paddle.to_tensor(ids), text.embed_tokens.weight)
        for layer, kept in zip(self.layers, cache.layers, strict=True):
            qkv = fast_ops.addmm(layer.qkv_bias, norm(x, layer.norm_1, eps), layer.qkv)
            x = fast_ops.addmm(x, self._attend(qkv, rotary, kept, cache, column), layer.o)
            both = fast_ops.matmul(norm(x, layer.norm_2, eps), layer.gate_up)
            gate, up = fast_ops.split(both, [self.arch.intermediate_size] * 2, 1)
            x = fast_ops.addmm(x, fast_ops.multiply(fast_ops.silu(gate), up), layer.down)
        return self.logits(norm(x, text.norm.weight, eps))

    def _attend(self, qkv, rotary, kept: LayerCache, cache: Cache, column: int) -> paddle.Tensor:
        """qkv [B*S, K * (R + 2) * D] before rotary -> [B*S, H * D]: one softmax over [shared prompt | own tail]."""
        groups, samples = cache.shape
        kv_heads, repeat, size = cache.num_kv_heads, cache.repeat, cache.head_dim
        batch, rows = groups * kv_heads, groups * kv_heads * samples
        prompt, columns = kept.prefix_v.shape[1], kept.tail_v.shape[1]
        cos, sin = rotary
        flat = fast_ops.reshape(qkv, [-1, size])
        flat = fast_ops.addmm(fast_ops.multiply(flat, cos), fast_ops.multiply(flat, sin), self.turn)
        heads = fast_ops.reshape(flat, [groups, samples, kv_heads, repeat + 2, size])
        q, k, v = fast_ops.split(fast_ops.transpose(heads, [0, 2, 1, 3, 4]), [repeat, 1, 1], 3)
        if self.casts:
            k, v = k.astype(cache.dtype), v.astype(cache.dtype)
        fast_ops.write_column(kept.tail_k, fast_ops.reshape(k, [rows, size, 1]), column, 2)
        fast_ops.write_column(kept.tail_v, fast_ops.reshape(v, [rows, 1, size]), column, 1)
        if self.casts:
            kept = kept.astype(self.model.dtype)
        by_group = fast_ops.reshape(q, [batch, samples * repeat, size])
        if cache.prefix_mask is None:
            on_prompt = fast_ops.bmm(by_group, kept.prefix_k)
        else:
            on_prompt = fast_ops.baddbmm(cache.prefix_mask, by_group, kept.prefix_k)
        on_tail = fast_ops.baddbmm(cache.tail_mask, fast_ops.reshape(q, [rows, repeat, size]), kept.tail_k)
        scores = fast_ops.concat([fast_ops.reshape(on_prompt, [rows, repeat, prompt]), on_tail], 2)
        on_prompt, on_tail = fast_ops.split(fast_ops.softmax(scores), [prompt, columns], 2)
        out = fast_ops.reshape(fast_ops.bmm(on_tail, kept.tail_v), [batch, samples * repeat, size])
        on_prompt = fast_ops.reshape(on_prompt, [batch, samples * repeat, prompt])
        out = fast_ops.baddbmm(out, on_prompt, kept.prefix_v)
        out = fast_ops.transpose(fast_ops.reshape(out, [groups, kv_heads, samples, repeat, size]), [0, 2, 1, 3, 4])
        return fast_ops.reshape(out, [groups * samples, kv_heads * repeat * size])
