# SPDX-License-Identifier: Apache-2.0
"""Qwen2-VL and Qwen2.5-VL: pictures and packed text in, hidden states and log-probabilities out.

Shape letters: T packed tokens, N patches, M merged visual tokens, I pictures, C hidden size, S scored tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute as recompute_block

from ..records import PackedBatch
from . import attention, embedding, head, tiled_attention, trace
from .config import ModelArch
from .text import TextModel
from .vision import VisionTower

if TYPE_CHECKING:
    from .reading import ReadPrompt

Structure = TypeVar("Structure")


def run_block(block, *args):
    """Run a block and keep its activations where gradients are asked for."""
    return block(*args)


def _recomputed(block, x, *args):
    """Run a block without keeping its activations; Paddle gives its weights gradients only if x wants one, too."""
    if x.stop_gradient:
        x = x.detach()
        x.stop_gradient = False
    return recompute_block(block, x, *args)


def _kept(structures: dict | None, key: tuple, make: Callable[[], Structure]) -> Structure:
    """Look a derived structure up, or make and keep it; equal networks (policy, reference, twins) share it."""
    if structures is None:
        return make()
    if key not in structures:
        structures[key] = make()
    return structures[key]


def predictor_rows(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which hidden state predicts which completion token.

    Args:
        row: [T] int: number of the completion a token belongs to, -1 for prompt tokens.

    Returns:
        predictors [S], targets [S]: token targets[s] is predicted by the state of token predictors[s]: the token before
        it, or its prompt's last token for the first of a completion.
    """
    targets = np.flatnonzero(row >= 0)
    last_prompt = np.maximum.accumulate(np.where(row < 0, np.arange(len(row)), 0))
    continues = row[targets - 1] == row[targets]
    return np.where(continues, targets - 1, last_prompt[targets]), targets


class QwenVL(nn.Layer):
    """The whole network.  Runs packs (records.PackedBatch); knows no generation and no loss."""

    def __init__(self, arch: ModelArch, attn_implementation: str = "auto", recompute: bool = False):
        super().__init__()
        self.arch = arch
        self.visual = VisionTower(arch.vision)
        self.text = TextModel(arch.text)
        self.attn_implementation = attn_implementation
        self.recompute = recompute
        self.freeze_vision = False

    @property
    def dtype(self) -> str:
        """float32, bfloat16 or float16: what the decoder's weights are kept in."""
        return self.text.norm.weight.dtype.name.lower()

    @property
    def flash(self) -> bool:
        """Whether packed attention goes to the flash kernels."""
        return attention.flash_available(self.attn_implementation, self.dtype)

    @property
    def reads_once(self) -> bool:
        """Whether `token_logp` can go on from prompts that were read before (models/reading.py)."""
        return not self.recompute and tiled_attention.serves(self.arch.text.head_dim, self.dtype)

    def set_freeze_vision(self, frozen: bool) -> None:
        """Keep the vision tower as it is: no gradients, no activations kept."""
        self.freeze_vision = frozen
        for parameter in self.visual.parameters():
            parameter.stop_gradient = frozen

    def set_freeze_language(self, frozen: bool) -> None:
        """Keep embedding, decoder and head as they are; gradients only pass through them to the pictures."""
        for parameter in self.text.parameters():
            parameter.stop_gradient = frozen

    def _runner(self):
        return _recomputed if self.recompute and paddle.is_grad_enabled() else run_block

    def embed_images(
        self, pixels: np.ndarray | paddle.Tensor, grids: np.ndarray, structures: dict | None = None
    ) -> paddle.Tensor:
        """Encode pixels [N, 1176] of pictures with grids [I, 3] (t, h, w) as visual tokens [M, C].

        `structures` keeps what is derived from the grids for the next pass over the same pictures.
        """
        pixels = paddle.to_tensor(pixels) if isinstance(pixels, np.ndarray) else pixels
        flash = self.flash
        structure = _kept(
            structures, (self.arch.vision, flash, self.dtype), lambda: self.visual.structure(grids, flash)
        )
        with paddle.set_grad_enabled(paddle.is_grad_enabled() and not self.freeze_vision):
            return self.visual(pixels, structure, self._runner())

    def embed(self, ids: np.ndarray, patch_rows: np.ndarray | None, images: paddle.Tensor | None) -> paddle.Tensor:
        """Embed ids [T]; rows patch_rows [M] take the visual tokens images [M, C].  Returns [T, C]."""
        x = embedding.rows(paddle.to_tensor(ids), self.text.embed_tokens.weight)
        if images is None:
            return x
        return paddle.scatter(x, paddle.to_tensor(patch_rows), images.astype(x.dtype))

    def hidden(self, batch: PackedBatch, wanted: np.ndarray | None = None) -> paddle.Tensor:
        """Final hidden states of a pack: [T, C], or [S, C] of the tokens wanted [S]."""
        images = None
        if batch.pixels is not None:
            images = self.embed_images(batch.pixels, batch.grids, batch.structures)
        x = self.embed(batch.ids, batch.patch_rows, images)
        flash = self.flash
        structure = _kept(
            batch.structures,
            (self.arch.text, flash, self.dtype),
            lambda: self.text.structure(batch.positions, batch.visible_until, flash),
        )
        return self.text(x, structure, self._runner(), wanted=wanted)

    def _predicting(self, batch: PackedBatch, prompts: Sequence[ReadPrompt] = ()) -> tuple[paddle.Tensor, np.ndarray]:
        """The hidden states [S, C] that predict the pack's completion tokens, and where those stand [S]."""
        predictors, targets = predictor_rows(batch.row)
        if prompts:
            states, tokens = self._after(batch, prompts)
        else:
            tokens = np.unique(predictors)
            states = self.hidden(batch, tokens)
        places = np.zeros([len(batch.row)], np.int64)
        places[tokens] = np.arange(len(tokens))
        return paddle.gather(states, paddle.to_tensor(places[predictors])), targets

    def _after(self, batch: PackedBatch, prompts: Sequence[ReadPrompt]) -> tuple[paddle.Tensor, np.ndarray]:
        """Final hidden states [S, C] behind prompts that were read before, one for each of the pack's groups.

        Also gives which tokens [S] they are of: each prompt's last, which the reading gave, and the completions' that
        predict; where decode steps left their states (trace.py), nothing is computed.
        """
        groups = attention.group_lengths(batch.row)
        past = [paddle.concat(layer) for layer in zip(*(prompt.kv for prompt in prompts), strict=True)]
        traces = [prompt.trace for prompt in prompts]
        if trace.usable(traces, groups):
            known = trace.Recalled(traces, groups)
            tokens = known.tokens
            structure = self.text.structure_after(batch.positions[:, tokens], known.groups, known.places)
            hidden = known.run(self.text, self.embed(batch.ids[tokens], None, None), past, *structure)
        else:
            tokens = np.flatnonzero(batch.row >= 0)
            tables, plain = self.text.structure_after(batch.positions[:, tokens], groups)
            layout = attention.ContinuedLayout(past, plain, self.arch.text.num_attention_heads, self.arch.text.head_dim)
            hidden = self.text(self.embed(batch.ids[tokens], None, None), (tables, layout), self._runner())
        ends = np.flatnonzero((batch.row[:-1] < 0) & (batch.row[1:] >= 0))
        return paddle.concat([*(prompt.last for prompt in prompts), hidden]), np.concatenate([ends, tokens])

    def token_logp(
        self, batch: PackedBatch, temperature: float = 1.0, prompts: Sequence[ReadPrompt] = ()
    ) -> paddle.Tensor:
        """Log-probability [T] float32 of each completion token given what it may look at; 0 at prompt tokens.

        prompts: those of the pack's groups, where this model has read them before; they are not read again then.
        """
        states, targets = self._predicting(batch, prompts)
        logp = head.token_logp(states, self.text.head_weight, paddle.to_tensor(batch.ids[targets]), temperature)
        return paddle.scatter(paddle.zeros([len(batch.ids)], "float32"), paddle.to_tensor(targets), logp)

    @paddle.no_grad()
    def token_logp_and_entropy(self, batch: PackedBatch, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """As `token_logp`, with each token's entropy, as two [T] float32 arrays; no gradients."""
        states, targets = self._predicting(batch)
        ids = paddle.to_tensor(batch.ids[targets])
        parts = head.token_logp_and_entropy(states, self.text.head_weight, ids, temperature)
        full = np.zeros([2, len(batch.ids)], np.float32)
        full[:, targets] = [part.numpy() for part in parts]
        return full[0], full[1]

    def logits(self, hidden: paddle.Tensor) -> paddle.Tensor:
        """Logits [S, V] of hidden states [S, C]."""
        return paddle.matmul(hidden, self.text.head_weight, transpose_y=True)
