# SPDX-License-Identifier: Apache-2.0
"""From logits to tokens: temperature, top-k, top-p, min-p, repetition penalty, banned ids, one random stream per row.

Shape letters: B rows, V vocabulary, L most tokens of a completion.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import paddle
from paddle.nn import functional as F

from ..config import RolloutConfig
from ..models import host

BANNED = -1e30
"""Added to the logits of ids that must never be chosen greedily."""


@functools.cache
def _host_loops() -> ModuleType:
    """The module of compiled loops; imported when first needed, it needs numba."""
    return importlib.import_module(".host_loops", __package__)


def row_uniforms(seed: int, prompt: int, sample: int, num: int) -> np.ndarray:
    """The [num] float32 uniforms of one row: they depend on what is named here and on nothing else in the batch."""
    return np.random.Generator(np.random.Philox(key=[seed, (prompt << 32) + sample])).random(num, np.float32)


def filter_probs(probs: np.ndarray, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> np.ndarray:
    """Set the probabilities that may not be drawn to zero, in the order top-k, top-p, min-p; rows are not renormalised.

    Args:
        probs: [B, V] float, rows summing to 1.  top_k: 0 is off; ties with the k-th are kept.
        top_p: keep the smallest set whose mass reaches it, at least one.  min_p: share of the largest probability.
    """
    probs = probs.copy()
    vocab = probs.shape[1]
    if 0 < top_k < vocab:
        border = np.partition(probs, vocab - top_k, axis=1)[:, vocab - top_k, None]
        probs[probs < border] = 0
    if top_p < 1.0:
        order = np.argsort(-probs, axis=1, kind="stable")
        ranked = np.take_along_axis(probs, order, 1)
        before = np.cumsum(ranked, axis=1) - ranked
        ranked[before >= top_p * ranked.sum(1, keepdims=True)] = 0
        np.put_along_axis(probs, order, ranked, 1)
    if min_p > 0.0:
        probs[probs < min_p * probs.max(1, keepdims=True)] = 0
    return probs


@dataclass
class Draw:
    """The next token of each row."""

    ids: np.ndarray
    """[B] int64."""
    logprobs: np.ndarray
    """[B] float32 nats under softmax(logits / temperature), before ids are banned or cut."""


class Sampler:
    """Chooses tokens for rows whose state (random numbers, tokens seen) it is handed at every call."""

    def __init__(self, config: RolloutConfig, vocab_size: int, banned_ids: Sequence[int], greedy: bool = False):
        self.config = config
        self.greedy = greedy or config.temperature == 0
        allowed = np.ones([1, vocab_size], np.float32)
        allowed[0, [i for i in banned_ids if i < vocab_size]] = 0
        self.allowed = allowed
        self._allowed_rows: paddle.Tensor | None = None
        self._penalty = paddle.to_tensor((1 - allowed) * BANNED)

    @property
    def needs_history(self) -> bool:
        """Whether `choose` reads the tokens seen so far."""
        return self.config.repetition_penalty != 1.0

    @property
    def draws_plainly(self) -> bool:
        """Whether tokens are drawn from all allowed ids, so that compiled steps may do it instead of `choose`."""
        return not (self.greedy or self.needs_history or self._cuts)

    @property
    def _cuts(self) -> bool:
        return bool(self.config.top_k or self.config.top_p < 1.0 or self.config.min_p > 0.0)

    def choose(self, logits: paddle.Tensor, uniforms: np.ndarray, seen: paddle.Tensor | None) -> Draw:
        """Choose one token per row.

        Args:
            logits: [B, V].  uniforms: [B] float32 in [0, 1).  seen: [B, V] float32, 1 at tokens seen so
                far, None unless `needs_history`.
        """
        logits = logits.astype("float32")
        if seen is not None:
            penalty = self.config.repetition_penalty
            logits = paddle.where(seen > 0, paddle.where(logits > 0, logits / penalty, logits * penalty), logits)
        if self.greedy:
            ids = paddle.argmax(logits + self._penalty, axis=1)
            picked = paddle.take_along_axis(logits, ids.reshape([-1, 1]), 1).reshape([-1])
            return Draw(ids.numpy(), (picked - paddle.logsumexp(logits, axis=1)).numpy())
        if not self._cuts and host.serves(logits):
            return self._draw_by_loop(logits, uniforms)
        if self.config.temperature != 1.0:
            logits = logits * (1.0 / self.config.temperature)
        if self._cuts:
            return self._draw_filtered(F.softmax(logits).numpy(), uniforms)
        probs = F.softmax(logits)
        ids = self._draw(probs, paddle.to_tensor(uniforms).reshape([-1, 1]))
        chosen = paddle.take_along_axis(probs, ids, 1).reshape([-1])
        return Draw(ids.numpy().reshape([-1]), np.log(chosen.numpy()))

    def _draw_by_loop(self, logits: paddle.Tensor, uniforms: np.ndarray) -> Draw:
        loops, helpers = _host_loops(), _host_loops().crew()
        ids, logprobs = np.empty(len(uniforms), np.int64), np.empty(len(uniforms), np.float32)
        powers = np.empty([helpers.size, self.allowed.size], np.float32)
        given = host.array(logits), self.config.temperature, self.allowed[0], uniforms.astype(np.float32)
        helpers.run(loops.draw, *given, powers, ids, logprobs)
        return Draw(ids, logprobs)

    def _draw(self, probs: paddle.Tensor, uniforms: paddle.Tensor) -> paddle.Tensor:
        """Invert the cumulative distribution: [B, V], [B, 1] -> [B, 1] int64."""
        if self._allowed_rows is None or self._allowed_rows.shape[0] != probs.shape[0]:
            self._allowed_rows = paddle.to_tensor(np.repeat(self.allowed, probs.shape[0], 0))
        heights = paddle.cumsum(probs * self._allowed_rows, axis=1)
        last = heights[:, -1:]
        ids = paddle.searchsorted(heights, paddle.minimum(uniforms * last, last * (1 - 1e-6)), right=True)
        return paddle.clip(ids, max=probs.shape[1] - 1)

    def _draw_filtered(self, probs: np.ndarray, uniforms: np.ndarray) -> Draw:
        config = self.config
        kept = probs * self.allowed
        kept /= kept.sum(1, keepdims=True)
        kept = filter_probs(kept, config.top_k, config.top_p, config.min_p)
        heights = np.cumsum(kept, axis=1, dtype=np.float64)
        ids = (heights <= (uniforms * (1 - 1e-6) * heights[:, -1])[:, None]).sum(1)
        return Draw(ids.astype(np.int64), np.log(probs[np.arange(len(ids)), ids]))
