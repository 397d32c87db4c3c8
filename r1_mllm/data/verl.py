# SPDX-License-Identifier: Apache-2.0
"""Rows in verl's columns: data_source, prompt, images, ability, reward_model, extra_info.

Reading them is `tasks/layouts.py`'s.  Here they are made, written as parquet, and turned back into the rows they came
from: extra_info.source keeps the source row as JSON, without its pictures.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..records import Example
from ..tasks import layouts, rows

Row = dict[str, Any]

PROMPT_TAIL = "Reason step by step and give the final answer within \\boxed{}."
"""What is asked after a question; configs/prompts_boxed.yaml says the same."""
ROWS_PER_GROUP = 256
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif"}
_PLAIN_MARK = re.compile(r"<image>")


@dataclass(frozen=True)
class Labels:
    """What is written into every row of a file."""

    data_source: str
    """Where the rows come from; verl's own rewards go by it."""
    split: str = "train"
    ability: str = "math"
    prompt_tail: str = PROMPT_TAIL
    """Follows every question; "" for none."""


def to_verl(row: Mapping[str, Any], example: Example, index: int, labels: Labels) -> Row:
    """Make a row in verl's columns.

    Args:
        row: as it was read, before `layouts.canonical`.
        example: made of that row; its pictures are encoded contents or paths that exist.

    Returns:
        images as {bytes, path}, where path is the one the row had, or None; as many <image> marks in the prompt.
    """
    where = example.meta["where"]
    known = layouts.canonical(row, where)
    asked = rows.marked_question(known, where)
    plain = rows.question_text(known, where, len(example.images))
    if not _PLAIN_MARK.search(asked):  # unnumbered marks stay in their places; else the pictures come first
        asked = "<image>\n" * len(example.images) + plain
    with_options = asked + example.question.removeprefix(plain)
    content = f"{with_options} {labels.prompt_tail}" if labels.prompt_tail else with_options
    gold = example.answer if isinstance(example.answer, str) else json.dumps(example.answer)
    names = picture_names(known)
    number = example.meta.get("id")
    return {
        "data_source": labels.data_source,
        "prompt": [{"content": content, "role": "user"}],
        "images": [_picture(source, name, where) for source, name in zip(example.images, names, strict=True)],
        "ability": labels.ability,
        "reward_model": {"ground_truth": gold, "style": "rule"},
        "extra_info": {
            "split": labels.split,
            "index": index,
            "answer": gold,
            "question": asked,
            "id": None if number is None else str(number),
            "source": _without_pictures(row),
        },
    }


def picture_names(row: Mapping[str, Any]) -> list[str | None]:
    """The paths of a row's pictures as they stand in it, None for pictures that have none."""
    found = [item.get("path") if isinstance(item, Mapping) else item for item in rows.stored_images(row)]
    return [name if isinstance(name, str) else None for name in found]


def _picture(source: str | bytes, name: str | None, where: str) -> Row:
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    image_format(content, f"{where}: picture {name or ''}")
    return {"bytes": content, "path": name}


def image_format(content: bytes, what: str) -> str:
    """Tell a picture's format (JPEG, PNG ...); ValueError for what is none."""
    from PIL import Image, UnidentifiedImageError  # only conversions look inside pictures

    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.verify()
            return opened.format or ""
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{what} is not a picture ({error})") from error


def _without_pictures(row: Mapping[str, Any]) -> str:
    """A row as JSON; pictures that stand in it become their path or their number."""
    count = 0

    def plain(value: Any) -> Any:
        nonlocal count
        if isinstance(value, Mapping):
            if isinstance(value.get("bytes"), bytes):
                count += 1
                return value.get("path") or {"picture": count - 1}
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, bytes):
            count += 1
            return {"picture": count - 1}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return json.dumps(plain(row), ensure_ascii=False)


def from_verl(row: Mapping[str, Any], where: str) -> tuple[Row, list[tuple[str, bytes]]]:
    """Turn a row in verl's columns back into the row it was made of, or into question/answer/images without one.

    Returns:
        The row, and its pictures as (path relative to the file that is written, content).
    """
    known = layouts.canonical(row, where)
    extra = row.get("extra_info") or {}
    source = layouts.source_row(extra)
    files = []
    for i, picture in enumerate(row.get("images") or ()):
        content = picture.get("bytes") if isinstance(picture, Mapping) else picture
        name = picture.get("path") if isinstance(picture, Mapping) else None
        if not isinstance(content, bytes):
            raise ValueError(f"{where}: picture {i + 1} has no bytes")
        suffix = SUFFIXES.get(image_format(content, f"{where}: picture {i + 1}"), "")
        files.append((_safe(name) or f"images/{extra.get('index', 0)}_{i}{suffix}", content))
    if source:
        return _with_paths(source, [path for path, _ in files]), files
    kept = {key: known[key] for key in ("id", "data_source", "ability", "extra_info") if known.get(key) is not None}
    back = {"question": known["problem"], "answer": known["answer"], "images": [path for path, _ in files], **kept}
    return back, files


def _safe(name: str | None) -> str | None:
    """A path that stays below the folder it is joined with; None for any other."""
    path = Path(name or "")
    return None if not name or path.is_absolute() or ".." in path.parts else name


def _with_paths(value: Any, paths: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return paths[value["picture"]] if value.keys() == {"picture"} else {
            key: _with_paths(item, paths) for key, item in value.items()
        }  # fmt: skip
    return [_with_paths(item, paths) for item in value] if isinstance(value, list) else value


def write_parquet(made: Iterable[Row], path: Path) -> int:
    """Write rows of `to_verl` as parquet, in one rename; return how many."""
    import pyarrow  # takes a while to load
    import pyarrow.parquet

    text = pyarrow.string()
    picture = pyarrow.struct([("bytes", pyarrow.binary()), ("path", text)])
    turn = pyarrow.struct([("content", text), ("role", text)])
    extra = [("split", text), ("index", pyarrow.int64()), ("answer", text), ("question", text), ("id", text)]
    schema = pyarrow.schema(
        [
            ("data_source", text),
            ("prompt", pyarrow.list_(turn)),
            ("images", pyarrow.list_(picture)),
            ("ability", text),
            ("reward_model", pyarrow.struct([("ground_truth", text), ("style", text)])),
            ("extra_info", pyarrow.struct([*extra, ("source", text)])),
        ]
    )
    staged = path.with_name(f"{path.name}.tmp")
    num = 0
    try:
        with pyarrow.parquet.ParquetWriter(staged, schema) as writer:
            for group in _groups(made):
                writer.write_table(pyarrow.Table.from_pylist(group, schema))
                num += len(group)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    return num


def _groups(made: Iterable[Row]) -> Iterable[list[Row]]:
    group: list[Row] = []
    for row in made:
        group.append(row)
        if len(group) == ROWS_PER_GROUP:
            yield group
            group = []
    if group:
        yield group
