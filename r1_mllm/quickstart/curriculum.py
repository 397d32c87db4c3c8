# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm curriculum`: stages from a file, one stage alone, and a comparison with open questions alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from .. import runtime
from ..config import GrpoConfig
from ..config import curriculum as curricula
from ..config.curriculum import CurriculumConfig, Stage
from ..config.flags import parse
from ..report.curriculum import ARMS
from ..runtime import Stop

DEFAULT = Path(__file__).resolve().parents[2] / "configs" / "curriculum.yaml"
MOST_STEPS = 4
"""The arm with equal tokens may take so many times the steps of its last stage."""


def main(argv: Sequence[str]) -> None:
    """Run a curriculum file, or the embedded default."""
    config = _read(argv, "Train in stages, each from a checkpoint of the one before.")
    if config is None:
        return
    _ready()
    from ..training import curriculum  # after prepare(): Paddle reads its environment when it loads

    if config.embedded is not None:
        config = _prepared(config, Path(config.output_dir))
    curriculum.run(config)


def stage(argv: Sequence[str]) -> None:
    """Run one stage from flags, as scripts/stage*.sh do."""
    config = parse(GrpoConfig, argv, f"{curricula.PROG} stage", "Train one stage; flags are those of `r1-mllm grpo`.")
    _ready()
    from ..training.curriculum import run_stage  # as above

    run_stage(config)


def compare(argv: Sequence[str]) -> None:
    """Run a curriculum and its controls for one seed, all from the same start, into OUTPUT_DIR/seed-SEED/ARM.

    curriculum: the file's stages.  open_steps: the same stages, every question open.  open_tokens: the same, the last
    stage going on, or ending, when as many tokens are generated as by the curriculum.
    """
    config = _read(argv, "Compare a curriculum with open questions alone, for one seed.")
    if config is None:
        return
    _ready()
    from ..training import curriculum

    folder = Path(config.output_dir) / f"seed-{config.stages[0].grpo.training.seed}"
    if config.embedded is not None:
        folder = Path(config.output_dir) / f"seed-{config.embedded.seed}"
        config = _prepared(config, folder)
    given, steps, tokens = ARMS
    curriculum.run(_arm(config, folder / given, opened=False))
    control = _arm(config, folder / steps, opened=True)
    curriculum.run(control)
    budget = _generated(folder / given) - sum(_stage_tokens(folder / steps)[:-1])
    *_, last = control.stages
    grpo = dataclasses.replace(
        last.grpo,
        stopping=dataclasses.replace(last.grpo.stopping, max_generated_tokens=max(1, budget)),
        training=dataclasses.replace(
            last.grpo.training,
            output_dir=str(folder / tokens / last.name),
            max_steps=MOST_STEPS * last.grpo.training.max_steps,
        ),
    )
    if len(control.stages) > 1:
        grpo = curriculum.starting_from(
            Stage(last.name, grpo, last.start_from), folder / steps / control.stages[-2].name
        )
    curriculum.run(CurriculumConfig(str(folder / tokens), (Stage(last.name, grpo),)))


def _read(argv: Sequence[str], description: str) -> CurriculumConfig | None:
    """The curriculum a command line names; None after help was printed."""
    if {"-h", "--help"} & set(argv):
        print(f"{description}\n\nusage: {curricula.PROG} [--config FILE] [--until STAGE] [flags for all stages]\n")
        print("--config FILE  stages to run; default: the embedded configs/curriculum.yaml")
        print("--until STAGE  end after the stage of this name\n")
        print(curricula.__doc__)
        return None
    own, rest = _taken(argv, ("config", "until"))
    config = curricula.read(Path(own.get("config", DEFAULT)), rest)
    names = [one.name for one in config.stages]
    last = own.get("until", names[-1])
    if last not in names:
        raise Stop(f"--until {last}: the stages are {', '.join(names)}")
    return dataclasses.replace(config, stages=config.stages[: names.index(last) + 1])


def _taken(argv: Sequence[str], names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Take flags with one value off a command line: (name -> value, the other words)."""
    own, rest = {}, []
    words = iter(argv)
    for word in words:
        name, has_value, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in names:
            rest.append(word)
            continue
        own[name] = value if has_value else next(words, "")
        if not own[name]:
            raise Stop(f"--{name} takes one value")
    return own, rest


def _ready() -> None:
    runtime.require_paddle()
    runtime.check_device()


def _prepared(config: CurriculumConfig, folder: Path) -> CurriculumConfig:
    from .forms import prepare  # loads Paddle

    return prepare(config, folder)


def _arm(config: CurriculumConfig, folder: Path, opened: bool) -> CurriculumConfig:
    """The curriculum in a folder of its own, its questions open if `opened`; always judged by open questions."""
    stages = []
    for one in config.stages:
        if one.grpo.training.max_steps < 1:
            raise Stop(f"stage {one.name}: a comparison needs max_steps, so that both sides take as many")
        data = dataclasses.replace(one.grpo.data, eval_form=("open",), form=("open",) if opened else one.grpo.data.form)
        training = dataclasses.replace(one.grpo.training, output_dir=str(folder / one.name))
        stages.append(dataclasses.replace(one, grpo=dataclasses.replace(one.grpo, data=data, training=training)))
    return dataclasses.replace(config, output_dir=str(folder), stages=tuple(stages))


def _stage_tokens(folder: Path) -> list[int]:
    """Tokens of the completions of each stage."""
    stages = json.loads((folder / "curriculum.json").read_text("utf-8"))["stages"]
    return [int(one["generated_tokens"]) for one in stages]


def _generated(folder: Path) -> int:
    return sum(_stage_tokens(folder))
