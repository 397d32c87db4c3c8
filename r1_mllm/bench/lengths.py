# SPDX-License-Identifier: Apache-2.0
"""Sampling whose lengths are known beforehand, so that two programs can be timed on the same work.

Shape letters: B places of the engine's rectangle, R rows (completions) of a call, L most tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import paddle

from ..config import RolloutConfig
from ..models.qwen_vl import QwenVL
from ..records import Completion, Prompt
from ..rollout.engine import Engine
from ..rollout.sampling import MANY, Draw, Sampler, row_uniforms


@dataclass(frozen=True)
class Ends:
    """After how many tokens each row of one call ends."""

    lengths: np.ndarray
    """[R] int, the stop token included."""
    uniforms: np.ndarray
    """[R, L] float32: every row's random numbers; they tell rows apart wherever the engine has moved them."""

    def due(self, uniforms: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Say which places must emit the stop token now: [B] bool, of uniforms [B] and tokens so far counts [B]."""
        known, lengths = self._lengths(uniforms, counts)
        return known & (counts + 1 >= lengths)

    def before(self, uniforms: np.ndarray, counts: np.ndarray) -> int:
        """Say how many tokens all of these rows, still going, take before one must emit the stop token."""
        known, lengths = self._lengths(uniforms, counts)
        return int((lengths - 1 - counts)[known].min(initial=MANY))

    def _lengths(self, uniforms: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which places are known rows [B] bool, and those rows' lengths [B]."""
        same = self.uniforms[:, np.minimum(counts, self.uniforms.shape[1] - 1)] == uniforms  # [R, B]
        return same.any(0), self.lengths[same.argmax(0)]


class LengthSampler(Sampler):
    """Never stops of its own accord; with `ends`, stops every row exactly where they say."""

    def __init__(self, config: RolloutConfig, vocab_size: int, banned_ids: Sequence[int], greedy: bool):
        super().__init__(config, vocab_size, banned_ids, greedy)
        self.ends: Ends | None = None
        self.stop_id = -1

    def plain_steps(self, uniforms: np.ndarray, lengths: np.ndarray) -> int:
        """As `Sampler.plain_steps`, up to the first row's end."""
        steps = super().plain_steps(uniforms, lengths)
        return steps if self.ends is None else min(steps, self.ends.before(uniforms, lengths))

    def choose(self, logits: paddle.Tensor, uniforms: np.ndarray, seen: paddle.Tensor | None, lengths) -> Draw:
        """As `Sampler.choose`; the stop token has the log-probability the model gives it."""
        draw = super().choose(logits, uniforms, seen, lengths)
        due = np.flatnonzero(self.ends.due(uniforms, lengths)) if self.ends is not None else ()
        if len(due):
            ids, logps = draw.ids.copy(), draw.logprobs.copy()
            scores = paddle.gather(logits, paddle.to_tensor(due)).astype("float32") / (self.config.temperature or 1.0)
            ids[due] = self.stop_id
            logps[due] = (scores[:, self.stop_id] - paddle.logsumexp(scores, axis=1)).numpy()
            draw = Draw(ids, logps)
        return draw


class LengthEngine(Engine):
    """The engine, with every completion `max_completion_length` tokens long or as long as the peer's rule says."""

    def __init__(
        self, model: QwenVL, tokenizer, config: RolloutConfig, lengths: tuple[int, int] | None = None, seed: int = 0
    ):
        """Args: lengths: shortest and longest completion.  seed: of the lengths; call c draws them from seed + c."""
        super().__init__(model, tokenizer, config)
        self.lengths, self.seed, self.num_calls = lengths, seed, 0
        self._ends: Ends | None = None

    def sampler(self, greedy: bool) -> LengthSampler:
        """The sampler of one call."""
        stops = self.tokenizer.stop_ids
        banned = np.union1d(self.tokenizer.banned_ids, stops)
        sampler = LengthSampler(self.config, self.model.arch.text.vocab_size, banned, greedy)
        sampler.ends, sampler.stop_id = self._ends, stops[0]
        return sampler

    def generate(
        self,
        prompts: Sequence[Prompt],
        n: int,
        seed: int,
        greedy: bool = False,
        max_new_tokens: int | None = None,
        **others,
    ) -> list[list[Completion]]:
        """As `Engine.generate`."""
        if self.lengths is not None:
            self._ends = self._draw_ends(len(prompts), n, seed, max_new_tokens or self.config.max_completion_length)
        self.num_calls += 1
        return super().generate(prompts, n, seed, greedy, max_new_tokens, **others)

    def _draw_ends(self, num_prompts: int, n: int, seed: int, length: int) -> Ends:
        low, high = self.lengths
        drawn = np.random.default_rng(self.seed + self.num_calls).integers(low, high + 1, num_prompts * n)
        places = [(i, sample) for i in range(num_prompts) for sample in range(n)]
        return Ends(drawn, np.stack([row_uniforms(seed, *place, length) for place in places]))
