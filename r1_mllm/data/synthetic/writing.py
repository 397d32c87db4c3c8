# SPDX-License-Identifier: Apache-2.0
"""Scenes on disk: annotation files with pictures beside them, or parquet with the pictures inside."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .scenes import TASKS, Picture, SceneOptions, scene


def encode_png(picture: Image.Image) -> bytes:
    """Contents of a PNG file of the picture."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def write_dataset(
    task: str, num: int, out_dir: str | Path, seed: int = 0, container: str = "json", **options: Any
) -> Path:
    """Write num scenes of one split and return what to pass as data set.

    Args:
        container: json or jsonl (returns OUT/SPLIT.json[l]; pictures in OUT/images, image_root is OUT), or parquet
            (returns OUT; one shard OUT/data/SPLIT-00000-of-00001.parquet with an `image` struct of bytes and path; the
            training split of spatial has SAT's `image_bytes` instead).
        options: fields of SceneOptions.  Scenes depend on task, seed, split and options only.
    """
    if container not in ("json", "jsonl", "parquet"):
        raise ValueError(f"container {container!r}: choose json, jsonl or parquet")
    if num < 1:
        raise ValueError(f"num {num}: a data set needs at least one scene")
    split = SceneOptions(**options).split
    drawn = _scenes(task, num, seed, options)
    if container == "parquet":
        return _write_parquet(drawn, Path(out_dir), split)
    return _write_annotations(drawn, Path(out_dir), split, container)


def write_splits(task: str, num: int, out_dir: str | Path, num_test: int = 500, **options: Any) -> tuple[Path, Path]:
    """Write a training and a held-out split (train.*, test.*) side by side; options as write_dataset's."""
    train = write_dataset(task, num, out_dir, split="train", **options)
    return train, write_dataset(task, num_test, out_dir, split="test", **options)


def _scenes(task: str, num: int, seed: int, options: dict[str, Any]) -> Iterator[tuple[Picture, dict[str, Any]]]:
    if task not in TASKS:
        raise ValueError(f"no scenes for task {task!r}; choose from {', '.join(TASKS)}")
    split = SceneOptions(**options).split
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, zlib.crc32(f"{task} {split}".encode())])))
    for _ in range(num):
        yield scene(task, rng, **options)


def _files(picture: Picture, stem: str) -> dict[str, bytes]:
    """Name -> content of a scene's file, or of both files of a pair."""
    if isinstance(picture, Image.Image):
        return {f"{stem}.png": encode_png(picture)}
    return {f"{stem}_{i}.png": encode_png(one) for i, one in enumerate(picture)}


def _write_annotations(drawn: Iterator[tuple[Picture, dict[str, Any]]], out: Path, split: str, kind: str) -> Path:
    (out / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for i_scene, (picture, row) in enumerate(drawn):
        files = _files(picture, f"images/{split}_{i_scene:06d}")
        for name, content in files.items():
            (out / name).write_bytes(content)
        rows.append({"image": list(files) if len(files) > 1 else next(iter(files)), **row})
    path = out / f"{split}.{kind}"
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n" if kind == "json" else "\n".join(lines) + "\n", "utf-8")
    return path


def _write_parquet(drawn: Iterator[tuple[Picture, dict[str, Any]]], out: Path, split: str) -> Path:
    import pyarrow  # heavy, and only this container needs it
    import pyarrow.parquet

    rows = []
    for i_scene, (picture, row) in enumerate(drawn):
        files = _files(picture, f"{split}_{i_scene:06d}")
        structs = [{"bytes": content, "path": name} for name, content in files.items()]
        row.pop("thought", None)  # published files have none
        sat = "correct_answer" in row  # SAT's files hold lists of bare file contents
        own = {"image_bytes": list(files.values())} if sat else {"image": structs if len(structs) > 1 else structs[0]}
        rows.append({**own, **row})
    (out / "data").mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out / "data" / f"{split}-00000-of-00001.parquet")
    return out
