# SPDX-License-Identifier: Apache-2.0
"""Which published tensors make up each of our parameters, and in what layout; the one place that knows both namings.

Published Linear weights are [out, in], ours [in, out].  Query, key and value, and gate and up, are separate tensors in
files and one parameter here.  Arrays are numpy (bfloat16 as its bits in uint16), so nothing here needs Paddle.

Shape letters: C text hidden size, I text MLP size, D vision hidden size, M vision MLP size, V vocabulary.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .config import ModelArch, TextArch, VisionArch

Shape = tuple[int, ...]

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"

# Written by transformers' save_pretrained (all versions) and the hub: visual.* model.* lm_head.  A state dict dumped
# from a live transformers >= 4.52 model uses the first two rows; its base model without a head the third.
PREFIXES = (
    ("model.language_model.", "model."),
    ("model.visual.", "visual."),
    ("language_model.", "model."),
)
STRIPE = 64
"""Rows transposed at a time: a whole-matrix copy misses the cache at every element."""

LARGE = 1 << 16
"""Numbers of a stripe from which a compiled transpose is worth its import."""

# Constants of the rotary embedding that old files carry; both are computed from config.json.
IGNORED_SUFFIXES = ("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq")


@dataclass(frozen=True)
class Parameter:
    """One parameter of ours and the published tensors it is joined from."""

    name: str
    sources: tuple[tuple[str, Shape], ...]
    """Published (legacy) names and shapes, joined along their first axis in this order."""
    layout: Literal["plain", "linear", "patch"] = "plain"
    """plain: as in the file; linear: transposed; patch: convolution kernel [D, ...] flattened to [patch_dim, D]."""

    @property
    def shape(self) -> Shape:
        rows = sum(shape[0] for _, shape in self.sources)
        rest = self.sources[0][1][1:]
        if self.layout == "plain":
            return rows, *rest
        return int(np.prod(rest)), rows


def canonical(name: str) -> str | None:
    """Give the legacy published name of a tensor found in a file; None for one that carries no weights."""
    if name.endswith(IGNORED_SUFFIXES):
        return None
    for prefix, legacy in PREFIXES:
        if name.startswith(prefix):
            return legacy + name.removeprefix(prefix)
    return name


def parameters(arch: ModelArch) -> Iterator[Parameter]:
    """List every parameter of a network, in the order they are written."""
    yield from _text(arch.text)
    yield from _vision(arch.vision)


def join(parameter: Parameter, blocks: Iterable[np.ndarray], out: np.ndarray) -> None:
    """Fill our parameter from its published tensors.

    Args:
        blocks: the rows of all `parameter.sources` one after another, a few (STRIPE) at a time, in out's dtype.
        out: `parameter.shape`, written in place.
    """
    start = 0
    for block in blocks:
        stop = start + len(block)
        if parameter.layout == "plain":
            out[start:stop] = block
        else:
            _transpose_into(block.reshape(len(block), -1), out, start)
        start = stop


def split(parameter: Parameter, ours: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Cut our parameter (`parameter.shape`) into its published tensors, C-contiguous, one at a time."""
    start = 0
    for name, shape in parameter.sources:
        stop = start + shape[0]
        if parameter.layout == "plain":
            yield name, np.ascontiguousarray(ours[start:stop])
        else:
            turned = np.empty((shape[0], ours.shape[0]), ours.dtype)
            for row in range(0, len(ours), STRIPE):
                _transpose_into(np.ascontiguousarray(ours[row : row + STRIPE, start:stop]), turned, row)
            yield name, turned.reshape(shape)
        start = stop


def _transpose_into(source: np.ndarray, out: np.ndarray, first: int) -> None:
    """Write source [a, b] to columns first to first + a of out [b, any]."""
    if source.size >= LARGE and importlib.util.find_spec("numba"):
        from .turning import transpose  # numba takes a while to import; small models do without

        bits = np.dtype(f"u{source.itemsize}")  # numba knows no float16
        transpose(source.view(bits), out.view(bits), first)
    else:
        out[:, first : first + len(source)] = source.T


def _linear(ours: str, published: Sequence[tuple[str, int]], width: int, bias: bool = True) -> Iterator[Parameter]:
    """List weight and bias of a Linear that reads `width` features; `published` gives names and output sizes."""
    yield Parameter(f"{ours}.weight", tuple((f"{name}.weight", (out, width)) for name, out in published), "linear")
    if bias:
        yield Parameter(f"{ours}.bias", tuple((f"{name}.bias", (out,)) for name, out in published))


def _norm(ours: str, published: str, width: int, bias: bool = False) -> Iterator[Parameter]:
    yield Parameter(f"{ours}.weight", ((f"{published}.weight", (width,)),))
    if bias:
        yield Parameter(f"{ours}.bias", ((f"{published}.bias", (width,)),))


def _text(text: TextArch) -> Iterator[Parameter]:
    """List the decoder: embedding, layers, last norm and, unless tied, the head."""
    wide = text.hidden_size
    q_size, kv_size = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    yield Parameter("text.embed_tokens.weight", ((EMBEDDING, (text.vocab_size, wide)),))
    for i_layer in range(text.num_hidden_layers):
        ours, theirs = f"text.layers.{i_layer}", f"model.layers.{i_layer}"
        attn, mlp = f"{theirs}.self_attn", f"{theirs}.mlp"
        qkv = [(f"{attn}.q_proj", q_size), (f"{attn}.k_proj", kv_size), (f"{attn}.v_proj", kv_size)]
        gate_up = [(f"{mlp}.gate_proj", text.intermediate_size), (f"{mlp}.up_proj", text.intermediate_size)]
        yield from _norm(f"{ours}.input_layernorm", f"{theirs}.input_layernorm", wide)
        yield from _linear(f"{ours}.attn.qkv", qkv, wide)
        yield from _linear(f"{ours}.attn.o", [(f"{attn}.o_proj", wide)], q_size, bias=False)
        yield from _norm(f"{ours}.post_attention_layernorm", f"{theirs}.post_attention_layernorm", wide)
        yield from _linear(f"{ours}.mlp.gate_up", gate_up, wide, bias=False)
        yield from _linear(f"{ours}.mlp.down", [(f"{mlp}.down_proj", wide)], text.intermediate_size, bias=False)
    yield from _norm("text.norm", "model.norm", wide)
    if not text.tie_word_embeddings:
        yield Parameter("text.lm_head.weight", ((HEAD, (text.vocab_size, wide)),))


def _vision(vision: VisionArch) -> Iterator[Parameter]:
    """List the vision tower: patch embedding, blocks, merger."""
    wide, bias = vision.hidden_size, vision.norm == "layer"
    kernel = (wide, vision.in_channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    yield Parameter("visual.patch_embed.weight", (("visual.patch_embed.proj.weight", kernel),), "patch")
    for i_block in range(vision.depth):
        block = f"visual.blocks.{i_block}"
        yield from _norm(f"{block}.norm1", f"{block}.norm1", wide, bias)
        yield from _linear(f"{block}.attn.qkv", [(f"{block}.attn.qkv", 3 * wide)], wide)
        yield from _linear(f"{block}.attn.proj", [(f"{block}.attn.proj", wide)], wide)
        yield from _norm(f"{block}.norm2", f"{block}.norm2", wide, bias)
        yield from _vision_mlp(vision, f"{block}.mlp")
    merged = wide * vision.merge_size**2
    yield from _norm("visual.merger.ln_q", "visual.merger.ln_q", wide, bias)
    yield from _linear("visual.merger.fc1", [("visual.merger.mlp.0", merged)], merged)
    yield from _linear("visual.merger.fc2", [("visual.merger.mlp.2", vision.out_hidden_size)], merged)


def _vision_mlp(vision: VisionArch, mlp: str) -> Iterator[Parameter]:
    wide, inner = vision.hidden_size, vision.intermediate_size
    if vision.mlp == "swiglu":
        yield from _linear(f"{mlp}.gate_up", [(f"{mlp}.gate_proj", inner), (f"{mlp}.up_proj", inner)], wide)
        yield from _linear(f"{mlp}.down", [(f"{mlp}.down_proj", wide)], inner)
    else:
        yield from _linear(f"{mlp}.fc1", [(f"{mlp}.fc1", inner)], wide)
        yield from _linear(f"{mlp}.fc2", [(f"{mlp}.fc2", wide)], inner)
