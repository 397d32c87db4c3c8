# SPDX-License-Identifier: Apache-2.0
"""Reading prompts and taking one decode step for a rectangle of rows, with as few operators as it takes.

Shape letters: B groups, S samples per group, K key/value heads, R query heads per key head, H = K * R, D head size,
P longest prompt, L tail columns, V vocabulary, T packed prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
from paddle.nn import functional as F

from ..models import kernels
from ..models.layers import RotaryTables, rotate
from ..models.qwen_vl import QwenVL
from ..models.text import rope_angles
from ..records import Prompt
from .cache import Cache, LayerCache, Prefill


def _image_key(pixels: np.ndarray, grid: np.ndarray) -> tuple[bytes, int, int]:
    view = np.ascontiguousarray(pixels).view(np.uint8)
    return grid.tobytes(), hash(view.tobytes()), pixels.shape[0]


def _split_images(prompt: Prompt) -> list[tuple[np.ndarray, np.ndarray]]:
    """(pixels [N_i, 1176], grid [3]) of each picture of a prompt."""
    if prompt.grids is None or len(prompt.grids) == 0:
        return []
    borders = np.cumsum(prompt.grids.prod(axis=1))[:-1]
    return list(zip(np.split(prompt.pixels, borders), prompt.grids, strict=True))


class Decoder:
    """A model ready to decode: rotary tables by position, and the head in the layout the machine multiplies fastest."""

    def __init__(self, model: QwenVL):
        self.model, self.arch = model, model.arch.text
        head = model.text.head_weight
        # a CPU multiplies [C, V] half again as fast as [V, C] transposed; one copy a rollout pays for itself
        self.head, self.head_is_wide = (head.transpose([1, 0]), True) if kernels.on_cpu() else (head, False)
        self.tables: RotaryTables | None = None
        self.num_positions = 0

    def logits(self, hidden: paddle.Tensor) -> paddle.Tensor:
        """Logits [rows, V] of normed states [rows, C]."""
        return paddle.matmul(hidden, self.head, transpose_y=not self.head_is_wide)

    def new_cache(self) -> Cache:
        arch = self.arch
        repeat = arch.num_attention_heads // arch.num_key_value_heads
        return Cache(arch.num_key_value_heads, repeat, arch.head_dim, self.model.dtype)

    def prefill(self, prompts: Sequence[Prompt]) -> tuple[Prefill, paddle.Tensor]:
        """Read prompts in one packed pass.

        Returns:
            what the cache needs, and the logits [prompts, V] of the first completion token.
        """
        lengths = np.array([len(prompt.ids) for prompt in prompts])
        ends = np.cumsum(lengths)
        ids = np.concatenate([prompt.ids for prompt in prompts])
        positions = np.concatenate([prompt.positions for prompt in prompts], axis=1)
        x = self.model.embed(ids, *self._visual_tokens(prompts, ids))
        kv: list[paddle.Tensor] = []
        hidden = self.model.text(x, positions, np.repeat(ends, lengths), self.model.flash, None, kv)
        last = paddle.gather(hidden, paddle.to_tensor(ends - 1))
        return Prefill(kv, ends - lengths, lengths), self.logits(last)

    def _visual_tokens(self, prompts: Sequence[Prompt], ids: np.ndarray):
        """Where visual tokens go and what they are; a picture that several prompts share is encoded once."""
        images = [image for prompt in prompts for image in _split_images(prompt)]
        if not images:
            return None, None
        vision_ids = [self.model.arch.image_token_id, self.model.arch.video_token_id]
        patch_rows = np.flatnonzero(np.isin(ids, vision_ids))
        number: dict[tuple, int] = {}
        which = [number.setdefault(_image_key(*image), len(number)) for image in images]
        unique = [images[which.index(i)] for i in range(len(number))]
        grids = np.stack([grid for _, grid in unique])
        tokens = self.model.embed_images(np.concatenate([pixels for pixels, _ in unique]), grids)
        if len(unique) == len(images):
            return patch_rows, tokens
        sizes = grids.prod(axis=1) // self.model.arch.vision.merge_size**2
        starts = np.cumsum(sizes) - sizes
        index = np.concatenate([np.arange(starts[i], starts[i] + sizes[i]) for i in which])
        return patch_rows, paddle.gather(tokens, paddle.to_tensor(index))

    def _rotary(self, positions: np.ndarray):
        """cos and sin [rows, (H + 2K) * D] at positions [rows]; the table grows by doubling."""
        need = int(positions.max()) + 1
        if need > self.num_positions:
            self.num_positions = max(need, 2 * self.num_positions, 512)
            angles = rope_angles(np.tile(np.arange(self.num_positions), [3, 1]), self.arch)
            heads = (self.arch.num_attention_heads, self.arch.num_key_value_heads, self.arch.num_key_value_heads)
            self.tables = RotaryTables(angles, heads, self.arch.head_dim**-0.5, self.model.dtype)
        rows = paddle.to_tensor(positions)
        return paddle.gather(self.tables.cos, rows), paddle.gather(self.tables.sin, rows), self.tables.turn

    def step(self, ids: np.ndarray, positions: np.ndarray, cache: Cache) -> paddle.Tensor:
        """Feed one token per row.

        Args:
            ids: [B*S] int64 newest tokens.  positions: [B*S] int64.  cache: takes their keys and values.

        Returns:
            [B*S, V] logits of the next token.
        """
        text = self.model.text
        column = cache.open_column()
        rotary = self._rotary(positions)
        x = F.embedding(paddle.to_tensor(ids), text.embed_tokens.weight)
        for layer, kept in zip(text.layers, cache.layers, strict=True):
            normed = layer.input_layernorm(x)
            qkv = rotate(layer.attn.qkv(normed), *rotary)
            x = layer.attn.o(self._attend(qkv, kept, cache, column), x)
            x = layer.mlp(layer.post_attention_layernorm(x), x)
        return self.logits(text.norm(x))

    def _attend(self, qkv: paddle.Tensor, kept: LayerCache, cache: Cache, column: int) -> paddle.Tensor:
        """qkv [B*S, (H + 2K) * D] -> [B*S, H * D]: one softmax over [shared prompt | own tail]."""
        groups, samples = cache.shape
        kv_heads, repeat, head_dim = cache.num_kv_heads, cache.repeat, cache.head_dim
        width, kv_width = kv_heads * repeat * head_dim, kv_heads * head_dim
        q = qkv[:, :width].reshape([groups, samples, kv_heads, repeat, head_dim]).transpose([0, 2, 1, 3, 4])
        new = [qkv[:, width + i * kv_width : width + (i + 1) * kv_width] for i in range(2)]
        new = [part.reshape([groups, samples, kv_heads, head_dim]).transpose([0, 2, 1, 3]) for part in new]
        for tail, part in zip((kept.tail_k, kept.tail_v), new, strict=True):
            tail[:, column] = part.reshape([-1, head_dim])
        by_group, by_row = q.reshape([-1, samples * repeat, head_dim]), q.reshape([-1, repeat, head_dim])
        if cache.prefix_mask is None:
            prefix = paddle.bmm(by_group, kept.prefix_k)
        else:
            prefix = kernels.masked_scores(cache.prefix_mask, by_group, kept.prefix_k)
        tail = paddle.matmul(by_row, kept.tail_k, transpose_y=True) + cache.tail_mask
        prompt = prefix.shape[2]
        weights = F.softmax(paddle.concat([prefix.reshape([-1, repeat, prompt]), tail], axis=2))
        on_prefix, on_tail = paddle.split(weights, [prompt, tail.shape[2]], axis=2)
        out = paddle.bmm(on_prefix.reshape([-1, samples * repeat, prompt]), kept.prefix_v)
        out = out.reshape([-1, repeat, head_dim]) + paddle.bmm(on_tail, kept.tail_v)
        out = out.reshape([groups, kv_heads, samples, repeat, head_dim]).transpose([0, 2, 1, 3, 4])
        return out.reshape([groups * samples, width])
