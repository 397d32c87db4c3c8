# SPDX-License-Identifier: Apache-2.0
"""What `r1-mllm curriculum` reads: a YAML file with stages, each a GRPO run that starts from the one before.

    output_dir: work_dirs/curriculum      # stage NAME goes to OUTPUT_DIR/NAME
    common: {...}                         # settings of `r1-mllm grpo` for every stage
    stages:
      - name: judge                       # a word; also the folder's name
        form: judge                       # judge, choice, open, or several
        start_from: last                  # or best: of the stage before (first stage: model_name_or_path)
        max_steps: 600                    # any setting of `r1-mllm grpo`
    embedded: {task: counting}            # instead of data and model: rendered scenes and a small model

Flags typed after the file go to every stage.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..runtime import Stop
from . import flags
from .settings import GrpoConfig, TrainingConfig

PROG = "r1-mllm curriculum"
_KEYS = ("output_dir", "common", "stages", "embedded")
_OWN = ("name", "start_from")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class EmbeddedConfig:
    """The embedded default: rendered scenes, and a small model that a supervised warm start taught all three forms."""

    task: Literal["rec", "counting", "geometry"] = "counting"
    num_train: int = 3000
    """Scenes; every stage draws from all of them."""
    num_test: int = 512
    max_objects: int = 4
    warm_up_open: int = 200
    """Supervised steps on right answers to open questions."""
    warm_up_forms: int = 600
    """Supervised steps on right answers in all three forms."""
    warm_up_weak: int = 200
    """Supervised steps on a weak annotator's answers in all three forms."""
    warm_up_learning_rate: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class Stage:
    """One stage: a GRPO run whose start is the stage before."""

    name: str
    grpo: GrpoConfig
    """Complete but for the model of later stages, which the stage before decides."""
    start_from: Literal["last", "best"] = "last"


@dataclass(frozen=True)
class CurriculumConfig:
    output_dir: str
    stages: tuple[Stage, ...]
    embedded: EmbeddedConfig | None = None


def read(path: Path, typed: Sequence[str] = ()) -> CurriculumConfig:
    """Read a curriculum file.

    Args:
        typed: flags of `r1-mllm grpo` for every stage; `--output_dir` is the curriculum's own.

    Raises:
        Stop: an unreadable file or a wrong key, named.
    """
    content = flags.read_yaml(path)
    flags.refuse_unknown(content, _KEYS, str(path))
    kinds = flags.leaf_types(GrpoConfig)
    given = flags.split(typed, kinds)
    output_dir = (given.pop("output_dir", None) or [content.get("output_dir") or TrainingConfig.output_dir])[0]
    listed = content.get("stages")
    if not isinstance(listed, list) or not listed or not all(isinstance(stage, dict) for stage in listed):
        raise Stop(f"{path}: `stages` must be a list of stages, each with name, form and settings")
    embedded = _embedded(content.get("embedded"), path)
    if embedded and "seed" in given:
        embedded = dataclasses.replace(embedded, seed=int(given["seed"][0]))
    common = content.get("common") or {}
    words = [word for name, values in given.items() for word in (f"--{name}", *values)]
    stages = []
    for number, settings in enumerate(listed, start=1):
        where = f"{path}: stage {number}"
        following = listed[number] if number < len(listed) else {}
        chosen = {**common, **settings}
        own = {key: chosen.pop(key) for key in _OWN if key in chosen}
        name = _checked_name(own.get("name"), where, [stage.name for stage in stages])
        start = own.get("start_from", "last")
        if start not in ("last", "best"):
            raise Stop(f"{where}: start_from {start!r}: choose last or best")
        if following.get("start_from", common.get("start_from")) == "best":
            _keep_all_checkpoints(chosen, given)
        chosen["output_dir"] = str(Path(output_dir) / name)
        spelled = [word for pair in chosen.items() for word in flags.spell(*pair)]
        stages.append(Stage(name, flags.parse(GrpoConfig, [*spelled, *words], f"{PROG}, {where}"), start))
    return CurriculumConfig(output_dir, tuple(stages), embedded)


def _checked_name(name: Any, where: str, taken: Sequence[str]) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in taken:
        raise Stop(f"{where}: name {name!r} must be a word of its own; the stage's folder is called so")
    return name


def _keep_all_checkpoints(chosen: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Let the next stage choose: no checkpoint is dropped, and each is evaluated, unless the settings say otherwise."""
    if "save_total_limit" not in {*chosen, *given}:
        chosen["save_total_limit"] = "None"
    if "eval_steps" not in {*chosen, *given}:
        chosen["eval_steps"] = (given.get("save_steps") or [chosen.get("save_steps", TrainingConfig.save_steps)])[0]


def _embedded(content: Any, path: Path) -> EmbeddedConfig | None:
    if content is None:
        return None
    if not isinstance(content, dict):
        raise Stop(f"{path}: `embedded` is {content!r}; write its settings, or {{}}")
    words = [word for pair in content.items() for word in flags.spell(*pair)]
    return flags.parse(EmbeddedConfig, words, f"{PROG}, {path}: embedded")
