# SPDX-License-Identifier: Apache-2.0
"""Sampling whose lengths are known beforehand, so that two programs can be timed on the same work."""

from __future__ import annotations

import numpy as np

from ..config import RolloutConfig
from ..models.qwen_vl import QwenVL
from ..rollout.engine import Engine
from ..rollout.sampling import Sampler


class LengthEngine(Engine):
    """The engine, with every completion `max_completion_length` tokens long or as long as the peer's rule says.

    A row ends where a length limit would cut it: its last token is drawn like the others.
    """

    def __init__(
        self, model: QwenVL, tokenizer, config: RolloutConfig, lengths: tuple[int, int] | None = None, seed: int = 0
    ):
        """Args: lengths: shortest and longest completion.  seed: of the lengths; call c draws them from seed + c."""
        super().__init__(model, tokenizer, config)
        self.lengths, self.seed, self.num_calls = lengths, seed, 0

    def sampler(self, greedy: bool) -> Sampler:
        """A sampler that never stops of its own accord."""
        banned = np.union1d(self.tokenizer.banned_ids, self.tokenizer.stop_ids)
        return Sampler(self.config, self.model.arch.text.vocab_size, banned, greedy)

    def limits(self, num_prompts: int, n: int, length: int) -> np.ndarray:
        """How many tokens each row has, [prompts, n]."""
        self.num_calls += 1
        if self.lengths is None:
            return super().limits(num_prompts, n, length)
        low, high = self.lengths
        drawn = np.random.default_rng(self.seed + self.num_calls - 1).integers(low, high + 1, num_prompts * n)
        return drawn.reshape([num_prompts, n])
