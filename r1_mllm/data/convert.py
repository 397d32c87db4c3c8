# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm data convert SOURCE --out FILE`: to verl's parquet from any layout we read, and from it to JSON lines."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..config.flags import parse
from ..records import Example
from ..runtime import DATA, Stop
from ..tasks import get_task, layouts
from . import read, verl
from .mixture import quarantine
from .mixture.pictures import PictureRoot

log = logging.getLogger(__name__)

SOURCES = {
    "geometry3k": "hiyouga/geometry3k",
    "mathvision": "MathLLMs/MathVision",
    "polymath": "him1411/polymath",
    "scemqa": "SceMQA/SceMQA",
    "wemath": "We-Math/We-Math",
    "easyr1": "hiyouga/geometry3k",
}
"""Layout -> data_source of its rows, unless --data_source says otherwise."""
PICTURE_SUFFIXES = (".jpg", ".png", ".jpeg", ".webp")


@dataclass(frozen=True)
class ConvertConfig:
    """Convert a data set to verl's parquet columns, or such a file back to JSON lines with its pictures beside it."""

    source: str
    """File or folder; any layout that tasks read (docs/math.md)."""
    out: str
    """FILE.parquet: verl's columns.  FILE.jsonl: rows as they were, pictures below the file's folder."""
    split: str | None = None
    """Which part of a folder; also written to extra_info.split (default: train)."""
    image_root: str | None = None
    """Folder of the pictures; None: the source's own."""
    task: str = "math_boxed"
    """Checks question and answer."""
    data_source: str | None = None
    """None: the published name of the layout, else the source's name."""
    ability: str = "math"
    """verl's column of that name."""
    prompt_tail: str = verl.PROMPT_TAIL
    """Follows every question in the prompt; "" for none."""
    prompt_key: str | None = None
    """Column of the question, where it has a name of its own (EasyR1's setting)."""
    answer_key: str | None = None
    """Column of the answer, likewise."""
    image_key: str | None = None
    """Column of the pictures, likewise."""
    data_policy: Literal["strict", "quarantine"] = "strict"
    """Rows that are not in order: list them and write nothing, or write them to OUT.quarantine.jsonl."""
    allow_outside_image_root: bool = False
    """Take picture paths that lead out of image_root, by `..` or as absolute paths."""


def main(argv: Sequence[str]) -> None:
    """Run the command; the source may also stand first without its flag."""
    words = ["--source", *argv] if argv and not argv[0].startswith("-") else argv
    config = parse(ConvertConfig, words, "r1-mllm data convert", ConvertConfig.__doc__)
    num, path = convert(config)
    print(f"{path}: {num} rows")


def convert(config: ConvertConfig) -> tuple[int, Path]:
    """Convert as configured; return the number of rows written and the file."""
    out = Path(config.out)
    if out.suffix not in (".parquet", ".jsonl"):
        raise ValueError(f"--out {out}: write .parquet (verl's columns) or .jsonl")
    out.parent.mkdir(parents=True, exist_ok=True)
    problems: list[quarantine.Problem] = []
    rows = ((_renamed(row, config), where) for row, where in read.rows(config.source, config.split))
    if out.suffix == ".parquet":
        num = verl.write_parquet(_at_least_one(_made(rows, config, problems), config), out)
    else:
        num = _write_lines(_at_least_one(rows, config), out)
    if problems:
        path = out.with_name(f"{out.name}.quarantine.jsonl")
        quarantine.write(problems, path)
        log.warning("%d rows left out; they are listed in %s", len(problems), path)
    return num, out


def _at_least_one(rows: Iterator[Any], config: ConvertConfig) -> Iterator[Any]:
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise ValueError(f"{config.source}: no row to convert")


def _renamed(row: dict[str, Any], config: ConvertConfig) -> dict[str, Any]:
    """Give the columns that the user names the names that are read."""
    names = {config.prompt_key: "problem", config.answer_key: "answer", config.image_key: "images"}
    names = {own: name for own, name in names.items() if own and own != name}
    if not names:
        return row
    return {key: value for key, value in row.items() if key not in names} | {
        name: row[own] for own, name in names.items() if own in row
    }


def _made(
    rows: Iterator[tuple[dict[str, Any], str]], config: ConvertConfig, problems: list[quarantine.Problem]
) -> Iterator[dict[str, Any]]:
    source = Path(config.source)
    folder = config.image_root or (source if source.is_dir() else source.parent)
    root = PictureRoot(folder, config.allow_outside_image_root)
    task = get_task(config.task)
    for index, (row, where) in enumerate(rows):
        try:
            example = _with_pictures(task.example(row, where), root)
            yield verl.to_verl(row, example, index, _labels(row, config, source))
        except ValueError as error:
            problems.append(quarantine.Problem(config.source, where, "row", str(error), row))
    if problems and config.data_policy == "strict":  # raised before the file appears
        raise Stop(quarantine.explain(problems), DATA)


def _labels(row: dict[str, Any], config: ConvertConfig, source: Path) -> verl.Labels:
    known = config.data_source or row.get("data_source") or SOURCES.get(layouts.layout_of(row) or "") or source.stem
    return verl.Labels(known, config.split or "train", config.ability, config.prompt_tail)


def _with_pictures(example: Example, root: PictureRoot) -> Example:
    """Find the pictures; a path without suffix stands for the file of that name (SceMQA)."""
    images, complaints = root.find([_suffixed(image, root.root) for image in example.images])
    if complaints:
        raise ValueError(f"{example.meta['where']}: {'; '.join(complaints)}")
    return dataclasses.replace(example, images=images)


def _suffixed(image: str | bytes, root: Path) -> str | bytes:
    if isinstance(image, bytes) or Path(image).suffix:
        return image
    found = (image + suffix for suffix in PICTURE_SUFFIXES if (root / (image + suffix)).is_file())
    return next(found, image)


def _write_lines(rows: Iterator[tuple[dict[str, Any], str]], out: Path) -> int:
    """Write JSON lines and the pictures that were inside the rows."""
    num = 0
    staged = out.with_name(f"{out.name}.tmp")
    with staged.open("w", encoding="utf-8") as file:
        for row, where in rows:
            if layouts.layout_of(row) != "verl":
                raise ValueError(f"{where}: not in verl's columns (prompt, reward_model); convert it to .parquet first")
            back, pictures = verl.from_verl(row, where)
            for name, content in pictures:
                path = out.parent / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            file.write(json.dumps(back, ensure_ascii=False) + "\n")
            num += 1
    staged.replace(out)
    return num
