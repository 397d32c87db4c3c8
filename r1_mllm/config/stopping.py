# SPDX-License-Identifier: Apache-2.0
"""When training ends before max_steps or num_train_epochs say so."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StoppingConfig:
    plateau_window: int = 0
    """Steps: end when the mean reward of the last so many is no better than that of as many before; 0: never."""
    plateau_gain: float = 0.01
    """What the mean reward must gain from one window to the next to go on."""
    max_generated_tokens: int | None = None
    """End at the first step at which the completions of the run have so many tokens, all ranks together."""
