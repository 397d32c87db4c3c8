# SPDX-License-Identifier: Apache-2.0
"""The factor float16 losses are multiplied by so that small gradients do not vanish."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class LossScale:
    """Grows after many good steps, shrinks at once on overflow; 1 and constant when inactive."""

    active: bool
    value: float = 65536.0
    num_good: int = 0
    growth_interval: int = 500

    def __post_init__(self) -> None:
        if not self.active:
            self.value = 1.0

    def good(self) -> None:
        """Count a step whose gradients were finite."""
        if not self.active:
            return
        self.num_good += 1
        if self.num_good >= self.growth_interval:
            self.value, self.num_good = min(self.value * 2, 2.0**24), 0

    def overflow(self) -> bool:
        """Halve after a non-finite gradient; False when the scale cannot be what is to blame."""
        if not self.active or self.value <= 1.0:
            return False
        self.value, self.num_good = self.value / 2, 0
        return True

    def state(self) -> dict[str, float]:
        """JSON values for a checkpoint."""
        return {"value": self.value, "num_good": self.num_good}

    def restore(self, state: Mapping[str, float]) -> None:
        """Continue from `state()`."""
        if self.active:
            self.value, self.num_good = float(state["value"]), int(state["num_good"])
