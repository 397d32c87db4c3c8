# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm quickstart`, `quickstart sft`, `quickstart reject`: flags first, and only then Paddle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .. import runtime
from ..config.flags import parse

PROG = "r1-mllm quickstart"


@dataclass(frozen=True)
class QuickstartConfig:
    """The embedded default."""

    task: Literal["rec", "counting", "geometry", "math_boxed", "spatial"] = "rec"
    """math_boxed: geometry scenes with boxed answers, trained with DAPO."""
    output_dir: str | None = None
    """None: runs/quickstart for rec, runs/quickstart-TASK for the others; -smoke is added to that of a smoke run."""
    seed: int = 0
    """Scenes, first weights and sampling follow from it."""
    smoke: bool = False
    """A minute instead of minutes: every part runs, nothing is learned."""
    overwrite_output_dir: bool = False
    """Move an earlier run aside; otherwise a finished warm start is kept and GRPO continues where it stopped."""


@dataclass(frozen=True)
class SupervisedConfig:
    """The embedded default of supervised fine-tuning."""

    task: Literal["rec", "counting", "geometry", "spatial"] = "counting"
    """What is asked about the scenes."""
    output_dir: str | None = None
    """None: runs/quickstart-sft-TASK; -smoke is added to that of a smoke run."""
    use_peft: bool = False
    """Train adapters instead: of little use on a model that starts from random weights, but it shows the files."""
    overwrite_output_dir: bool = False
    """Move an earlier run aside; otherwise it goes on where it stopped."""
    seed: int = 0
    """Scenes, first weights and order follow from it."""
    max_steps: int = 700
    """Optimizer steps."""
    smoke: bool = False
    """Seconds instead of minutes: every part runs, nothing is learned."""


@dataclass(frozen=True)
class RejectionConfig:
    """The embedded default of rejection fine-tuning."""

    task: Literal["rec", "counting", "geometry"] = "counting"
    """What is asked about the scenes."""
    output_dir: str | None = None
    """None: runs/quickstart-reject-TASK; -smoke is added to that of a smoke run."""
    seed: int = 0
    """Scenes, first weights and sampling follow from it."""
    smoke: bool = False
    """Seconds instead of minutes: scenes with one figure, a handful of steps."""
    overwrite_output_dir: bool = False
    """Move an earlier run aside; otherwise what is finished is kept and the rest done."""


def main(argv: Sequence[str]) -> None:
    """Run the embedded default as the command line says."""
    config = parse(QuickstartConfig, argv, PROG, "The main job on rendered scenes, in minutes on a CPU.")
    runtime.require_paddle()
    from .run import run

    run(config)


def supervised(argv: Sequence[str]) -> None:
    """Run the embedded default of supervised fine-tuning and print its folder."""
    description = "Supervised fine-tuning of a small model on rendered scenes, in minutes on a CPU."
    config = parse(SupervisedConfig, argv, f"{PROG} sft", description)
    runtime.require_paddle()
    from .supervised import run

    print(run(config))


def rejection(argv: Sequence[str]) -> None:
    """Run the embedded default of rejection fine-tuning."""
    description = "Rejection fine-tuning of a small model on rendered scenes, in minutes on a CPU."
    config = parse(RejectionConfig, argv, f"{PROG} reject", description)
    runtime.require_paddle()
    from .rejection import run

    run(config)
