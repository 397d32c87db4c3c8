# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm bench ...`: flags first, then the number of threads, and only then Paddle."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import runtime
from ..config.flags import parse
from . import compare as comparison
from .settings import (
    DataBench,
    FolderBench,
    ForwardBench,
    LoadBench,
    MemoryBench,
    RewardsBench,
    RolloutBench,
    StepBench,
    length_range,
)

PROG = "r1-mllm bench"


def step(argv: Sequence[str]) -> None:
    """Print one JSON line about whole GRPO steps, with the keys of tests/bench/bench_peer_step.py."""
    config = parse(StepBench, argv, f"{PROG} step")
    length_range(config)
    _prepare(config)
    from .step import measure  # after the number of threads is settled

    _show(measure(config), config)


def rollout(argv: Sequence[str]) -> None:
    """Print one JSON line about sampling and its floor."""
    config = parse(RolloutBench, argv, f"{PROG} rollout")
    _prepare(config)
    from .rollout import measure  # after the number of threads is settled

    _show(measure(config), config)


def forward(argv: Sequence[str]) -> None:
    """Print one JSON line about passes over packs and their floor."""
    config = parse(ForwardBench, argv, f"{PROG} forward")
    _prepare(config)
    from .forward import measure  # after the number of threads is settled

    _show(measure(config), config)


def load(argv: Sequence[str]) -> None:
    """Print one JSON line about loading a checkpoint."""
    config = parse(LoadBench, argv, f"{PROG} load")
    _set_threads(config.threads)
    from .load import measure  # after the number of threads is settled

    _show(measure(config), config)


def memory(argv: Sequence[str]) -> None:
    """Print one JSON line about the peak memory of each process of a training run."""
    config = parse(MemoryBench, argv, f"{PROG} memory")
    _set_threads(0)
    from .memory import measure

    result = measure(config)
    if result is not None:
        _show(result, config)


def scaling(argv: Sequence[str]) -> None:
    """Print what a step of `r1-mllm grpo` with the same flags would take on GPUs, on paper."""
    from .scaling import main  # no Paddle

    main(argv)


def sizing(argv: Sequence[str]) -> None:
    """Print what `r1-mllm grpo` with the same flags would take per device, for published networks or a config.json."""
    from .sizes import main  # no Paddle

    main(argv)


def rewards(argv: Sequence[str]) -> None:
    """Print one JSON line about grading."""
    config = parse(RewardsBench, argv, f"{PROG} rewards")
    _set_threads(0)
    from .rewards import measure

    _show(measure(config), config)


def data(argv: Sequence[str]) -> None:
    """Print one JSON line about pictures."""
    config = parse(DataBench, argv, f"{PROG} data")
    _set_threads(0)
    from .data import measure

    _show(measure(config), config)


def compare(argv: Sequence[str]) -> None:
    """Print the ratios between the peer's and our JSON lines in a folder."""
    parser = argparse.ArgumentParser(prog=f"{PROG} compare", description=compare.__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="folder with peer_*.json and ours_*.json")
    parser.add_argument("--quiet", type=float, default=comparison.QUIET, help="most cores others may keep busy")
    given = parser.parse_args(argv)
    result = comparison.compare(
        comparison.load(given.folder, "peer"), comparison.load(given.folder, "ours"), given.quiet
    )
    (given.folder / "ratios.json").write_text(json.dumps(result, indent=1) + "\n")
    print(comparison.table(result))


def _prepare(config: FolderBench) -> None:
    if min(config.prompts, config.gens, config.new, config.steps) < 1 or config.warmup < 0:
        raise runtime.Stop("prompts, gens, new and steps must be at least 1, warmup at least 0")
    _set_threads(config.threads)


def _set_threads(num: int) -> None:
    if num:
        os.environ["OMP_NUM_THREADS"] = str(num)
    runtime.require_paddle()


def _show(result: dict[str, Any], config: Any) -> None:
    line = json.dumps(result)
    print(line)
    if config.json:
        Path(config.json).write_text(line + "\n")
