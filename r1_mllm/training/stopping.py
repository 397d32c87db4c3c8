# SPDX-License-Identifier: Apache-2.0
"""Tell when a run should end early: its reward no longer grows, or it has written enough tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..config.stopping import StoppingConfig


class Stopper:
    """Watches one run; the same on every rank, and continued from a checkpoint."""

    def __init__(self, config: StoppingConfig) -> None:
        self.config = config
        self.num_generated = 0
        """Tokens of all completions so far."""
        self._rewards: list[float] = []

    @property
    def reason(self) -> str | None:
        """Why the run should end now; None: it should not."""
        limit, window = self.config.max_generated_tokens, self.config.plateau_window
        if limit is not None and self.num_generated >= limit:
            return f"{self.num_generated} generated tokens"
        if window > 0 and len(self._rewards) >= 2 * window:
            before, last = (math.fsum(part) / window for part in (self._rewards[:window], self._rewards[window:]))
            if last - before < self.config.plateau_gain:
                return f"reward plateau: {before:.4f} and then {last:.4f} in windows of {window} steps"
        return None

    def observe(self, reward: float, num_tokens: int) -> None:
        """Take note of a rollout: its mean reward (NaN when nothing was scored) and its completions' tokens."""
        self.num_generated += num_tokens
        if self.config.plateau_window > 0 and not math.isnan(reward):
            self._rewards = [*self._rewards, reward][-2 * self.config.plateau_window :]

    def state(self) -> dict[str, Any]:
        """What `restore` needs; JSON-ready."""
        return {"num_generated": self.num_generated, "rewards": self._rewards}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.num_generated, self._rewards = int(state["num_generated"]), list(state["rewards"])
