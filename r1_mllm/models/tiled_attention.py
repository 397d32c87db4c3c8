# SPDX-License-Identifier: Apache-2.0
"""Attention on a CPU in float32 through compiled loops (tiled_loops.py): no scores in memory, forward or backward.

Shape letters: T tokens, D head size, A heads of a fused row (queries, keys and values), H query heads, K key heads.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import paddle
from paddle.autograd import PyLayer

from . import host, kernels

NARROWEST = 16
"""Head sizes are multiples of it: a narrow tile of products."""


@functools.cache
def _loops() -> ModuleType:
    return importlib.import_module(".tiled_loops", __package__)


def serves(head_dim: int, dtype: str) -> bool:
    """Whether heads of this size and type are attended to in compiled loops here."""
    return host.is_there() and kernels.on_cpu() and dtype == "float32" and head_dim % NARROWEST == 0


@dataclass(frozen=True)
class Part:
    """Tokens begin to end of a family: they see its first `prefix` tokens and, if causal, themselves from begin on."""

    begin: int
    end: int
    prefix: int
    causal: bool


class TiledLayout:
    """Families of tokens that may see each other, made once per pack for all layers."""

    def __init__(
        self,
        families: Sequence[tuple[np.ndarray, Sequence[Part]]],
        num_heads: int,
        num_kv_heads: int,
        size: int,
        skip: int = 0,
    ):
        """Prepare attention.

        Args:
            families: token numbers [n] and parts of each; every token stands in one family.
            size: D.
            skip: tokens at the start that are in no part: others see them, and they have no row of the output.
        """
        self.heads, self.skip = (num_heads, num_kv_heads, size), skip
        lengths = np.array([len(tokens) for tokens, _ in families], np.int64)
        ends = np.cumsum([len(parts) for _, parts in families])
        starts = ends - [len(parts) for _, parts in families]
        self.order = np.concatenate([tokens for tokens, _ in families]).astype(np.int64)
        self.families = np.stack([np.cumsum(lengths) - lengths, lengths, starts, ends], axis=1).astype(np.int64)
        rows = [(part.begin, part.end, part.prefix, part.causal) for _, parts in families for part in parts]
        self.parts = np.array(rows, np.int64).reshape([-1, 4])
        self.longest = int(lengths.max())

    def attend(self, qkv: paddle.Tensor) -> paddle.Tensor:
        """Attention of fused rows qkv [T, A * D], queries already scaled by 1/sqrt(D) -> [T - skip, H * D]."""
        if paddle.is_grad_enabled() and not qkv.stop_gradient:
            return _TiledAttention.apply(qkv, self)
        return self.forward(qkv)

    def forward(self, qkv: paddle.Tensor) -> paddle.Tensor:
        """As `attend`, without gradients."""
        return self._run(_loops().attend, [qkv.shape[0] - self.skip, self.heads[0] * self.heads[2]], qkv)

    def backward(self, qkv: paddle.Tensor, grad_out: paddle.Tensor) -> paddle.Tensor:
        """Gradient of qkv [T, A * D] from that of the output [T - skip, H * D]; anything for queries without output."""
        return self._run(_loops().attend_gradient, qkv.shape, qkv, grad_out)

    def _run(self, function: Callable, shape: Sequence[int], *given: paddle.Tensor) -> paddle.Tensor:
        """Let a loop fill a tensor of this shape from the given ones, on all threads."""
        loops, found = _loops(), paddle.empty(shape)
        helpers = loops.crew()
        size = loops.work_size(self.longest, self.heads[0] // self.heads[1], self.heads[2])
        work = np.empty([helpers.size, size], np.float32)
        layout = self.order, self.families, self.parts, self.heads, self.skip
        helpers.run(function, *host.arrays(*given), *layout, host.array(found), work)
        return found


class _TiledAttention(PyLayer):
    @staticmethod
    def forward(ctx, qkv, layout):
        ctx.save_for_backward(qkv)
        ctx.layout = layout
        return layout.forward(qkv)

    @staticmethod
    def backward(ctx, grad):
        (qkv,) = ctx.saved_tensor()
        return ctx.layout.backward(qkv, grad.contiguous())
