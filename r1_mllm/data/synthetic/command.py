# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm data synthesize`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...config.flags import parse
from .writing import write_splits


@dataclass(frozen=True)
class SynthesizeConfig:
    """Rendered scenes with exact ground truth, as a training and a held-out split."""

    task: Literal["rec", "counting", "geometry", "spatial", "open_detection", "gui"]
    """What is asked about the scenes."""
    out: str
    """Folder to write."""
    num: int = 2000
    """Training scenes."""
    num_test: int = 500
    """Held-out scenes; no layout of theirs is in the training split."""
    seed: int = 0
    """The scenes follow from it."""
    container: Literal["json", "jsonl", "parquet"] = "json"
    """Rows in a .json or .jsonl file with pictures beside it, or parquet files with the pictures inside."""
    side: int = 84
    """Width and height of a picture, px."""
    max_objects: int | None = None
    """Most objects in a scene; None: the task's default."""
    digits: bool = False
    """Also place handwritten digits; needs scikit-learn."""


def main(argv: Sequence[str]) -> None:
    """Write the splits and print their files."""
    config = parse(SynthesizeConfig, argv, "r1-mllm data synthesize", SynthesizeConfig.__doc__)
    options = dataclasses.asdict(config)
    task, num, out = options.pop("task"), options.pop("num"), options.pop("out")
    for path in write_splits(task, num, out, **options):
        print(path)
