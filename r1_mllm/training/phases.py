# SPDX-License-Identifier: Apache-2.0
"""Which phase of a step takes the time, and a word when one takes far more than it should."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

WINDOW = 10
"""Rollouts that are averaged before anything is said."""
LIMITS = {"generate": 0.8, "update": 0.8, "reference": 0.5, "reward": 0.3, "encode": 0.3}
"""Largest share of a step's time that is nothing to speak of."""
CURES = {
    "generate": "raise rollout_batch_rows if memory allows, lower max_completion_length, or num_generations",
    "update": "raise tokens_per_pack if memory allows, switch recompute off, or set freeze_vision",
    "reference": "beta 0 needs no reference model",
    "reward": "look at the slow reward (rewards/* and verify_timeout), or leave it out",
    "encode": "set dataloader_num_workers, lower max_pixels, or store smaller pictures",
}


@dataclass
class PhaseWatch:
    """Remembers the seconds of the latest rollouts."""

    recent: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    told: set[str] = field(default_factory=set)
    """Phases that were named already; each is named once a run."""

    def observe(self, seconds: Mapping[str, float]) -> str | None:
        """Take in one rollout's time/PHASE -> seconds; a warning when one phase dominates the latest ten."""
        self.recent.append({name.removeprefix("time/"): value for name, value in seconds.items()})
        if len(self.recent) < WINDOW:
            return None
        total = sum(sum(one.values()) for one in self.recent)
        for phase, limit in LIMITS.items():
            share = sum(one.get(phase, 0.0) for one in self.recent) / total if total else 0.0
            if share > limit and phase not in self.told:
                self.told.add(phase)
                return f"{phase} takes {100 * share:.0f} % of the latest {WINDOW} steps' time; {CURES[phase]}"
        return None
