# SPDX-License-Identifier: Apache-2.0
"""Settings of how processes share what training keeps, under PaddleNLP's names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ShardingConfig:
    sharding: Literal["none", "stage1", "stage2", "stage3"] = "none"
    """What processes share out instead of each keeping all of it (ZeRO, arXiv:1910.02054): stage1 the optimizer's
    masters and moments, stage2 the gradients too.  stage3 is taken as stage2 with recompute: weights stay whole."""
    sharding_parallel_degree: int = -1
    """Processes that share one copy; must divide their number.  -1: all of them."""
    tensor_parallel_degree: int = 1
    """Only 1: each process computes with whole weights."""

    def __post_init__(self) -> None:
        problems = []
        if self.tensor_parallel_degree not in (1, -1):
            problems.append(
                f"tensor_parallel_degree {self.tensor_parallel_degree}: each device computes with whole weights; "
                "leave it at 1, and for less memory use --sharding stage2, --recompute or --use_peft"
            )
        if self.sharding_parallel_degree < 1 and self.sharding_parallel_degree != -1:
            problems.append(f"sharding_parallel_degree {self.sharding_parallel_degree}: give -1 (all) or at least 1")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def gradients(self) -> bool:
        """Whether gradients are shared out, too."""
        return self.sharding in ("stage2", "stage3")

    @property
    def recompute(self) -> bool:
        """Whether activations are computed anew in the backward pass because of the sharding stage."""
        return self.sharding == "stage3"

    def degree(self, world: int) -> int:
        """How many slices there are among `world` processes: 1 without sharding.

        Raises:
            ValueError: sharding_parallel_degree does not divide `world`.
        """
        if self.sharding == "none" or world == 1:
            return 1
        degree = world if self.sharding_parallel_degree == -1 else self.sharding_parallel_degree
        if world % degree:
            divisors = [str(number) for number in range(2, world + 1) if world % number == 0]
            raise ValueError(
                f"sharding_parallel_degree {degree} does not divide the {world} processes; "
                f"give {', '.join(divisors)}, or leave it out for all"
            )
        return degree
