# SPDX-License-Identifier: Apache-2.0
"""The decoder of Qwen2-VL and Qwen2.5-VL on packed tokens, and its head without a [T, vocabulary] tensor.

Shape letters: T packed tokens, S scored tokens, C hidden size, V vocabulary, H query heads, K key/value heads, D head
size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import nn

from . import attention
from .config import TextArch
from .layers import Linear, RMSNorm, RotaryTables, SwiGLU

Structure = tuple[RotaryTables, attention.TextLayout]
"""Rotary tables and attention layout of a pack."""


def rope_angles(positions: np.ndarray, arch: TextArch) -> np.ndarray:
    """Angles [T, D] of 3-axis positions [3, T]: frequency i turns with the axis its mrope_section names."""
    half = arch.head_dim // 2
    frequencies = 1.0 / arch.rope_theta ** (np.arange(half, dtype=np.float32) * 2 / arch.head_dim)
    axis = np.repeat(np.arange(3), arch.mrope_section)
    angles = positions[axis].T.astype(np.float32) * frequencies.astype(np.float32)
    return np.concatenate([angles, angles], axis=1)


class TextAttention(nn.Layer):
    def __init__(self, arch: TextArch):
        super().__init__()
        heads = arch.num_attention_heads + 2 * arch.num_key_value_heads
        self.qkv = Linear(arch.hidden_size, heads * arch.head_dim, True)
        self.o = Linear(arch.num_attention_heads * arch.head_dim, arch.hidden_size, False)

    def forward(self, x, tables: RotaryTables, layout: attention.TextLayout, residual, keep_kv: list | None, wanted):
        """x, residual [T, C] -> [T, C], or [S, C] of the tokens wanted [S] int64.

        Appends keys and values [T, 2*K*D] to keep_kv where that is a list.
        """
        qkv = tables.apply(self.qkv(x))
        if keep_kv is not None:
            keep_kv.append(qkv[:, layout.num_heads * layout.head_dim :])
        attended = attention.attend(qkv, layout)
        if wanted is not None:
            attended, residual = paddle.gather(attended, wanted), paddle.gather(residual, wanted)
        return self.o(attended, residual)


class DecoderLayer(nn.Layer):
    def __init__(self, arch: TextArch):
        super().__init__()
        self.input_layernorm = RMSNorm(arch.hidden_size, arch.rms_norm_eps)
        self.attn = TextAttention(arch)
        self.post_attention_layernorm = RMSNorm(arch.hidden_size, arch.rms_norm_eps)
        self.mlp = SwiGLU(arch.hidden_size, arch.intermediate_size, False)

    def forward(self, x, tables, layout, keep_kv=None, wanted=None):
        """x [T, C] -> [T, C], or [S, C] of the tokens wanted [S] int64."""
        x = self.attn(self.input_layernorm(x), tables, layout, x, keep_kv, wanted)
        return self.mlp(self.post_attention_layernorm(x), x)


class Weight(nn.Layer):
    """A bare weight [V, C] under its own name: the embedding table and the untied head."""

    def __init__(self, rows: int, width: int):
        super().__init__()
        self.weight = self.create_parameter([rows, width], default_initializer=nn.initializer.Normal(0, 0.02))


class TextModel(nn.Layer):
    def __init__(self, arch: TextArch):
        super().__init__()
        self.arch = arch
        self.embed_tokens = Weight(arch.vocab_size, arch.hidden_size)
        self.layers = nn.LayerList([DecoderLayer(arch) for _ in range(arch.num_hidden_layers)])
        self.norm = RMSNorm(arch.hidden_size, arch.rms_norm_eps)
        if not arch.tie_word_embeddings:
            self.lm_head = Weight(arch.vocab_size, arch.hidden_size)

    @property
    def head_weight(self) -> paddle.Tensor:
        """[V, C]; the embedding table itself when the checkpoint ties them."""
        return self.embed_tokens.weight if self.arch.tie_word_embeddings else self.lm_head.weight

    def tables(self, positions: np.ndarray, scaled: bool = True) -> RotaryTables:
        """Rotary tables of positions [3, T] int64; scaled: queries also get 1/sqrt(D), as plain products expect."""
        arch = self.arch
        heads = arch.num_attention_heads, arch.num_key_value_heads, arch.num_key_value_heads
        scale = arch.head_dim**-0.5 if scaled else 1.0
        return RotaryTables(rope_angles(positions, arch), heads, scale, self.norm.weight.dtype.name.lower())

    def structure(self, positions: np.ndarray, visible_until: np.ndarray, flash: bool) -> Structure:
        """Prepare a pack, positions [3, T] int64 and visible_until [T] int, for all layers."""
        arch, dtype = self.arch, self.norm.weight.dtype.name.lower()
        heads = arch.num_attention_heads, arch.num_key_value_heads
        tables = self.tables(positions, scaled=not flash)  # flash kernels scale queries themselves
        return tables, attention.TextLayout(visible_until, *heads, arch.head_dim, flash, dtype)

    def structure_after(
        self, positions: np.ndarray, groups: Sequence[attention.GroupLengths], places: np.ndarray | None = None
    ) -> tuple[RotaryTables, attention.TiledLayout]:
        """Prepare completions behind prompts that were read before.

        Args:
            positions: [3, T] of the completions' tokens.
            groups: theirs.
            places: [T] which of these tokens each is, taking the groups' completions in turn; None: in order.
        """
        arch, places = self.arch, np.arange(positions.shape[1]) if places is None else places
        heads = arch.num_attention_heads, arch.num_key_value_heads
        return self.tables(positions), attention.after_prompts(groups, places, *heads, arch.head_dim)

    def forward(self, x, structure: Structure, run, keep_kv: list | None = None, wanted: np.ndarray | None = None):
        """Run the decoder.

        Args:
            x: [T, C] embedded tokens.  structure: of the pack.
            run: a function (block, *args) that runs a block, with or without keeping its activations.
            keep_kv: a list that receives each layer's keys and values [T, 2*K*D], or None.
            wanted: [S] tokens whose states are asked for; None: all.  The last layer computes no others.

        Returns:
            [T, C], or [S, C], after the last norm.
        """
        tables, layout = structure
        rows = None if wanted is None else paddle.to_tensor(wanted)
        for i, layer in enumerate(self.layers, start=1):
            x = run(layer, x, tables, layout, keep_kv, rows if i == len(self.layers) else None)
        return self.norm(x)
