# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of a pass over a pack, counted from the architecture: 2 for a multiplication with its sum.

Products only: norms, rotary embedding and softmax are left out, as they are in the usual counts.
"""

from __future__ import annotations

import numpy as np

from ..records import PackedBatch
from .config import ModelArch, TextArch, VisionArch
from .vision import frame_lengths, window_segments


def text_operations(arch: TextArch, visible_until: np.ndarray, num_scored: int) -> int:
    """Operations of the decoder forward.

    Args:
        visible_until: [T] of a pack; it says how many pairs of tokens meet.
        num_scored: tokens whose log-probability is asked for.
    """
    tokens, heads = len(visible_until), arch.num_attention_heads * arch.head_dim
    kv_heads = arch.num_key_value_heads * arch.head_dim
    per_token = arch.hidden_size * (2 * heads + 2 * kv_heads + 3 * arch.intermediate_size)
    pairs = int((visible_until - np.arange(tokens)).sum())
    layers = arch.num_hidden_layers * (2 * tokens * per_token + 4 * pairs * heads)
    return layers + 2 * num_scored * arch.hidden_size * arch.vocab_size


def vision_operations(arch: VisionArch, grids: np.ndarray) -> int:
    """Operations of the vision tower forward over pictures with grids [I, 3] (t, h, w)."""
    patches, width = int(grids.prod(axis=1).sum()), arch.hidden_size
    mlp = (3 if arch.mlp == "swiglu" else 2) * width * arch.intermediate_size
    per_patch = 4 * width * width + mlp
    full = int((frame_lengths(grids) ** 2).sum())
    windowed = full
    if arch.window_size:
        side = arch.window_size // (arch.patch_size * arch.merge_size)
        windowed = int((window_segments(grids, arch.merge_size, side)[1] ** 2).sum())
    num_full = len(arch.full_attention_blocks) if arch.window_size else arch.depth
    pairs = num_full * full + (arch.depth - num_full) * windowed
    merged = width * arch.merge_size**2
    merger = patches // arch.merge_size**2 * merged * (merged + arch.out_hidden_size)
    return 2 * patches * (arch.patch_dim * width + arch.depth * per_patch) + 4 * pairs * width + 2 * merger


def pack_operations(arch: ModelArch, batch: PackedBatch) -> int:
    """Operations of one forward pass that scores a pack's completions; a backward pass takes twice as many."""
    operations = text_operations(arch.text, batch.visible_until, int((batch.row >= 0).sum()))
    return operations + (0 if batch.grids is None else vision_operations(arch.vision, batch.grids))
