# SPDX-License-Identifier: Apache-2.0
"""Completions that are computed once, to sample them and to learn from them: decode steps leave their states behind.

A step that feeds a token computes all that the policy's forward pass would compute for it.  Where the weights are still
the sampler's, that pass is left out: each decoder layer's gradient starts from what the steps kept.

Shape letters: S tokens fed, P prompt tokens of the pack, C hidden size, A heads of a fused row (queries, keys, values),
H query heads, K key/value heads, D head size, I intermediate size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import paddle
from paddle.autograd import PyLayer

from . import attention, kernels
from .config import TextArch
from .layers import RotaryTables

if TYPE_CHECKING:
    from .text import DecoderLayer, TextModel


@dataclass
class LayerStates:
    """Of the tokens that were fed, in the order of the steps."""

    x: paddle.Tensor
    """[S, C] what came in."""
    qkv: paddle.Tensor
    """[S, A * D] after rotary, queries scaled."""
    attended: paddle.Tensor
    """[S, H * D]."""
    middle: paddle.Tensor
    """[S, C] between attention and MLP."""
    gate: paddle.Tensor
    """[S, I]."""
    up: paddle.Tensor
    """[S, I]."""

    @property
    def tensors(self) -> list[paddle.Tensor]:
        """All of them."""
        return list(vars(self).values())


class Trace:
    """What the decode steps of one prompt's completions leave behind."""

    def __init__(self, arch: TextArch, most: int):
        """Make room for `most` tokens; memory that is never written to is never touched."""
        heads = arch.num_attention_heads + 2 * arch.num_key_value_heads
        by_head, inner = arch.num_attention_heads * arch.head_dim, arch.intermediate_size
        widths = arch.hidden_size, heads * arch.head_dim, by_head, arch.hidden_size, inner, inner
        self.layers = [
            LayerStates(*(paddle.empty([most, width], "float32") for width in widths))
            for _ in range(arch.num_hidden_layers)
        ]
        self.out: paddle.Tensor | None = paddle.empty([most, arch.hidden_size], "float32")
        self.num_tokens = 0
        """Fed so far."""
        self.lengths: list[int] = []
        """Tokens of each completion that were fed: all but its last; known when all are done."""

    @property
    def is_there(self) -> bool:
        """Whether it holds anything, not yet taken."""
        return self.out is not None and self.num_tokens > 0

    def addresses(self) -> np.ndarray:
        """[layers + 1, 6] int64: of each layer's states, and first in the last row that of what comes out."""
        found = np.zeros([len(self.layers) + 1, 6], np.int64)
        found[:-1] = [[tensor.data_ptr() for tensor in layer.tensors] for layer in self.layers]
        found[-1, 0] = self.out.data_ptr()
        return found

    def finish(self, lengths: Sequence[int]) -> None:
        """Note the completions' lengths, in tokens."""
        self.lengths = [length - 1 for length in lengths]
        assert sum(self.lengths) == self.num_tokens, f"{self.num_tokens} tokens were fed for lengths {lengths}"

    def order(self) -> tuple[np.ndarray, np.ndarray]:
        """Which completion [S] and which of its tokens [S] each state is of: steps feed all that go on, in order."""
        rows = np.repeat(np.arange(len(self.lengths)), self.lengths)
        tokens = np.concatenate([np.arange(length) for length in self.lengths])
        order = np.lexsort((rows, tokens))
        return rows[order], tokens[order]

    def take(self) -> tuple[list[LayerStates], paddle.Tensor]:
        """Hand out the states, once: per layer, and those that come out [S, C]."""
        num = self.num_tokens
        layers = [LayerStates(*(tensor[:num] for tensor in layer.tensors)) for layer in self.layers]
        out, self.out, self.layers = self.out[:num], None, []
        return layers, out


def usable(traces: Sequence[Trace | None], groups: Sequence[attention.GroupLengths]) -> bool:
    """Say whether these are the traces of just these groups' completions, not yet taken."""
    return all(
        trace is not None and trace.is_there and trace.lengths == [length - 1 for length in group.completions]
        for trace, group in zip(traces, groups, strict=True)
    )


class Recalled:
    """The traces of a pack's groups, joined, and where their tokens stand."""

    def __init__(self, traces: Sequence[Trace], groups: Sequence[attention.GroupLengths]):
        """Take the traces; groups: of the pack, in order."""
        tokens, places, start, taken = [], [], 0, 0
        for trace, group in zip(traces, groups, strict=True):
            rows, offsets = trace.order()
            begins = start + group.prompt + np.cumsum(group.completions) - group.completions
            tokens.append(begins[rows] + offsets)
            places.append(taken + np.lexsort((offsets, rows)))
            start += group.prompt + sum(group.completions)
            taken += len(rows)
        self.tokens = np.concatenate(tokens)
        """[S] where in the pack each state's token stands."""
        self.groups = [
            attention.GroupLengths(group.prompt, trace.lengths) for trace, group in zip(traces, groups, strict=True)
        ]
        """Without the completions' last tokens."""
        self.places = np.concatenate(places)
        """[S] which state is of each token, taking the groups' completions one after the other."""
        parts = [trace.take() for trace in traces]
        layers = zip(*(layers for layers, _ in parts), strict=True)
        self.layers = [LayerStates(*map(_joined, zip(*(s.tensors for s in group), strict=True))) for group in layers]
        self.out = _joined([out for _, out in parts])

    def run(
        self,
        text: TextModel,
        x: paddle.Tensor,
        past: Sequence[paddle.Tensor],
        tables: RotaryTables,
        layout: attention.TiledLayout,
    ) -> paddle.Tensor:
        """As `TextModel.forward` behind prompts, with nothing computed but the last norm.

        Args:
            x: [S, C] embedded tokens.
            past: per layer keys and values [P, 2 * K * D] of the prompts.
            tables, layout: of the pack's prompts and of the tokens in the order of the states.
        """
        outs = [*(states.x for states in self.layers[1:]), self.out]
        for layer, states, kv, out in zip(text.layers, self.layers, past, outs, strict=True):
            x = _Layer.apply(x, kv, *_weights(layer), _Known(states, out, tables, layout, text.arch.rms_norm_eps))
        return text.norm(x)


def _joined(tensors: Sequence[paddle.Tensor]) -> paddle.Tensor:
    return tensors[0] if len(tensors) == 1 else paddle.concat(list(tensors))


def _weights(layer: DecoderLayer) -> tuple[paddle.Tensor, ...]:
    attn, mlp = layer.attn, layer.mlp
    return (
        *(layer.input_layernorm.weight, attn.qkv.weight, attn.qkv.bias, attn.o.weight),
        *(layer.post_attention_layernorm.weight, mlp.gate_up.weight, mlp.down.weight),
    )


@dataclass
class _Known:
    """What a layer's gradient starts from."""

    states: LayerStates
    out: paddle.Tensor
    tables: RotaryTables
    layout: attention.TiledLayout
    eps: float


class _Layer(PyLayer):
    """A decoder layer whose results are known; its gradient is the chain rule, part by part."""

    @staticmethod
    def forward(ctx, x, past, norm_1, qkv, bias, o, norm_2, gate_up, down, known):
        ctx.save_for_backward(past, norm_1, qkv, o, norm_2, gate_up, down)
        ctx.known, ctx.x_learns = known, not x.stop_gradient
        return known.out.detach()

    @staticmethod
    def backward(ctx, grad):
        past, norm_1, qkv, o, norm_2, gate_up, down = ctx.saved_tensor()
        states, tables, layout, eps = ctx.known.states, ctx.known.tables, ctx.known.layout, ctx.known.eps
        ctx.known = None
        normed = kernels.rms_norm(states.middle, norm_2, eps)
        grad_normed, *grads_mlp = kernels.gated_mlp_gradient(normed, gate_up, down, states.gate, states.up, grad)
        grad_middle, grad_norm_2 = kernels.rms_norm_gradient(states.middle, norm_2, eps, grad_normed)
        grad_middle.add_(grad)

        grad_attended, grad_o = kernels.linear_gradient(states.attended, o, grad_middle)
        together = attention.behind(past, states.qkv)
        grad_together = layout.backward(together, grad_attended)
        num_prompt, width = past.shape[0], states.attended.shape[1]
        grad_past = None if past.stop_gradient else grad_together[:num_prompt, width:].contiguous()
        grad_qkv = tables.rotate(grad_together[num_prompt:], -1, in_place=True)

        normed = kernels.rms_norm(states.x, norm_1, eps)
        grad_normed, grad_weight = kernels.linear_gradient(normed, qkv, grad_qkv)
        grad_bias = None if grad_weight is None else kernels.column_sums(grad_qkv)
        grad_x, grad_norm_1 = kernels.rms_norm_gradient(states.x, norm_1, eps, grad_normed)
        grad_x = grad_x.add_(grad_middle) if ctx.x_learns else None
        return grad_x, grad_past, grad_norm_1, grad_weight, grad_bias, grad_o, grad_norm_2, *grads_mlp
