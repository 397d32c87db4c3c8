# SPDX-License-Identifier: Apache-2.0
"""The vision tower of Qwen2-VL and Qwen2.5-VL: patches of several pictures in one row -> visual tokens.

Follows Qwen2-VL (arXiv:2409.12191) and Qwen2.5-VL (arXiv:2502.13923): 2-D rotary positions, and in 2.5 attention in
windows except for a few blocks.  Every temporal step of a grid is an attention segment of its own.

Shape letters: N patches, M merged visual tokens (N / merge_size^2), I pictures, C vision width, D head size.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from . import attention
from .config import VISION_ROPE_THETA, VisionArch
from .layers import NORMS, Linear, QuickGELU, RotaryTables, SwiGLU

Structure = tuple[RotaryTables, attention.SegmentLayout, attention.SegmentLayout]
"""Rotary tables of the patches, and who sees whom in blocks of full and of windowed attention."""


def patch_positions(grids: np.ndarray, merge: int) -> np.ndarray:
    """Row and column of every patch [N, 2] in merge order, for grids [I, 3] (t, h, w)."""
    parts = []
    for steps, height, width in grids.tolist():
        rows, cols = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        both = np.stack([rows, cols], axis=-1).reshape([height // merge, merge, width // merge, merge, 2])
        parts.append(np.tile(both.transpose([0, 2, 1, 3, 4]).reshape([-1, 2]), [steps, 1]))
    return np.concatenate(parts)


def frame_lengths(grids: np.ndarray) -> np.ndarray:
    """Patches of every temporal step of every picture, [segments]."""
    return np.repeat(grids[:, 1] * grids[:, 2], grids[:, 0])


def window_segments(grids: np.ndarray, merge: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut every frame into windows of window x window merged tokens.

    Returns:
        order [N] int64: patches window by window, smaller windows first; lengths [windows] patches per window.
    """
    unit = merge * merge
    members, start = [], 0
    for steps, height, width in grids.tolist():
        rows, cols = height // merge, width // merge
        ids = start + np.arange(steps * rows * cols).reshape([steps, rows, cols])
        for frame in ids:
            for top in range(0, rows, window):
                for left in range(0, cols, window):
                    members.append(frame[top : top + window, left : left + window].reshape(-1))
        start += steps * rows * cols
    members.sort(key=len)
    tokens = np.concatenate(members)
    order = (tokens[:, None] * unit + np.arange(unit)).reshape(-1)
    return order, np.array([len(window) * unit for window in members])


class VisionAttention(nn.Layer):
    def __init__(self, arch: VisionArch):
        super().__init__()
        self.qkv = Linear(arch.hidden_size, 3 * arch.hidden_size, True)
        self.proj = Linear(arch.hidden_size, arch.hidden_size, True)

    def forward(self, x, tables: RotaryTables, layout: attention.SegmentLayout, residual):
        """x, residual [N, C] -> [N, C]."""
        return self.proj(attention.attend_segments(tables.apply(self.qkv(x)), layout), residual)


class VisionBlock(nn.Layer):
    def __init__(self, arch: VisionArch):
        super().__init__()
        norm = NORMS[arch.norm]
        self.norm1 = norm(arch.hidden_size, arch.norm_eps)
        self.norm2 = norm(arch.hidden_size, arch.norm_eps)
        self.attn = VisionAttention(arch)
        if arch.mlp == "swiglu":
            self.mlp = SwiGLU(arch.hidden_size, arch.intermediate_size, True)
        else:
            self.mlp = QuickGELU(arch.hidden_size, arch.intermediate_size)

    def forward(self, x, tables, layout):
        """x [N, C] -> [N, C]."""
        x = self.attn(self.norm1(x), tables, layout, x)
        return self.mlp(self.norm2(x), x)


class Merger(nn.Layer):
    """merge_size x merge_size neighbouring patches -> one visual token of the text width."""

    def __init__(self, arch: VisionArch):
        super().__init__()
        self.width = arch.hidden_size * arch.merge_size**2
        self.ln_q = NORMS[arch.norm](arch.hidden_size, arch.norm_eps)
        self.fc1 = Linear(self.width, self.width, True)
        self.fc2 = Linear(self.width, arch.out_hidden_size, True)

    def forward(self, x):
        """x [N, C] -> [M, text width]."""
        return self.fc2(F.gelu(self.fc1(self.ln_q(x).reshape([-1, self.width]))))


class VisionTower(nn.Layer):
    def __init__(self, arch: VisionArch):
        super().__init__()
        self.arch = arch
        self.patch_embed = Linear(arch.patch_dim, arch.hidden_size, False)
        self.blocks = nn.LayerList([VisionBlock(arch) for _ in range(arch.depth)])
        self.merger = Merger(arch)

    def _tables(self, grids: np.ndarray, flash: bool, dtype: str) -> RotaryTables:
        arch = self.arch
        num_frequencies = arch.head_dim // 4
        exponents = np.arange(num_frequencies, dtype=np.float32) / num_frequencies
        frequencies = (1.0 / VISION_ROPE_THETA**exponents).astype(np.float32)
        angles = patch_positions(grids, arch.merge_size).astype(np.float32)[:, :, None] * frequencies
        angles = np.tile(angles.reshape([len(angles), -1]), [1, 2])
        heads = (arch.num_heads,) * 3
        return RotaryTables(angles, heads, 1.0 if flash else arch.head_dim**-0.5, dtype)

    def structure(self, grids: np.ndarray, flash: bool) -> Structure:
        """Prepare pictures of grids [I, 3] int64 (t, h, w) for all blocks."""
        arch, dtype = self.arch, self.patch_embed.weight.dtype.name.lower()
        heads = arch.num_heads, arch.head_dim, flash, dtype
        num_patches = int(grids.prod(axis=1).sum())
        full = attention.SegmentLayout(frame_lengths(grids), np.arange(num_patches), *heads)
        windows = full
        if arch.window_size:
            window = arch.window_size // arch.patch_size // arch.merge_size
            order, lengths = window_segments(grids, arch.merge_size, window)
            windows = attention.SegmentLayout(lengths, order, *heads)
        return self._tables(grids, flash, dtype), full, windows

    def forward(self, pixels: paddle.Tensor, structure: Structure, recompute) -> paddle.Tensor:
        """Encode pictures.

        Args:
            pixels: [N, 1176] normalised patches.  structure: of their grids.
            recompute: a function (block, *args) that runs a block, with or without keeping its activations.

        Returns:
            [M, text width] in the order of the grids.
        """
        arch, (tables, full, windows) = self.arch, structure
        x = self.patch_embed(pixels.astype(self.patch_embed.weight.dtype))
        for i_block, block in enumerate(self.blocks):
            sees_all = not arch.window_size or i_block in arch.full_attention_blocks
            x = recompute(block, x, tables, full if sees_all else windows)
        return self.merger(x)
