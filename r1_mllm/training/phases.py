# SPDX-License-Identifier: Apache-2.0
"""What is worth a word while a run goes on: a phase that takes far more time than it should, rewards that teach
nothing.
"""

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
        # Without the slowest: a machine that stood still for a minute says nothing of the phase it stood still in.
        kept = sorted(self.recent, key=lambda one: sum(one.values()))[:-1]
        total = sum(sum(one.values()) for one in kept)
        for phase, limit in LIMITS.items():
            share = sum(one.get(phase, 0.0) for one in kept) / total if total else 0.0
            if share > limit and phase not in self.told:
                self.told.add(phase)
                return f"{phase} takes {100 * share:.0f} % of the latest {WINDOW} steps' time; {CURES[phase]}"
        return None


@dataclass
class SpreadWatch:
    """Counts the latest rollouts in which no answer earned more or less than the others to its question."""

    in_a_row: int = 0
    told: bool = False
    """It is said once a run."""

    def observe(self, reward: float, share_equal: float, share_cut: float) -> str | None:
        """Take in one rollout; a warning when nothing could be learnt from the latest ten.

        Args:
            reward: mean of the rollout.  share_equal: of its groups, those whose rewards are all equal (0 to 1).
            share_cut: of its completions, those cut at max_completion_length.
        """
        self.in_a_row = self.in_a_row + 1 if share_equal == 1 else 0
        if self.in_a_row < WINDOW or self.told:
            return None
        self.told = True
        text = (
            f"in the latest {WINDOW} steps all answers to a question earned the same (mean reward {reward:.3g}), so "
            "that nothing is learnt; read completions.jsonl or `r1-mllm report`: does the model know how to answer "
            "(sft first, or another --prompt_template), and are the questions neither too hard nor too easy?"
        )
        if share_cut > 0.5:
            text += f"  {100 * share_cut:.0f} % of the answers are cut: raise max_completion_length"
        return text
