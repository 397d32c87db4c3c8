# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm data messages SOURCE --task TASK --out FILE.jsonl`: rows of any task as conversations for `r1-mllm sft`.

Each row becomes one question, asked by the task's `baseline` prompt, and its right answer; pictures that came inside
the rows are written to a folder beside the file.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import DataConfig
from ..config.flags import parse
from ..records import Example
from ..tasks import get_task
from ..tasks.templates import Templates, load_templates
from .mixture import load_examples

_SIGNATURES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp"}


@dataclass(frozen=True)
class MessagesConfig:
    """Write the rows of a data set as conversations for `r1-mllm sft`."""

    source: str
    """What --dataset_name of `r1-mllm grpo` takes: a file, a folder or a mixture."""
    out: str
    """FILE.jsonl to write; pictures go to FILE_images beside it."""
    task: str | None = None
    """None: what the mixture or the rows say."""
    num: int | None = None
    """The first so many rows; None: all."""
    image_root: str | None = None
    """Folder that the rows' picture paths start in; None: the one the source lies in."""
    prompt_template: str | None = None
    """YAML file that replaces the built-in prompts."""


def main(argv: Sequence[str]) -> None:
    """Run the command; the source may also stand first without its flag."""
    words = ["--source", *argv] if argv and not argv[0].startswith("-") else argv
    config = parse(MessagesConfig, words, "r1-mllm data messages", MessagesConfig.__doc__)
    print(f"{config.out}: {write_messages(config)} conversations")


def write_messages(config: MessagesConfig) -> int:
    """Write the file, whole or not at all, and return the number of its rows."""
    out = Path(config.out)
    if out.suffix != ".jsonl":
        raise ValueError(f"--out {out}: conversations are written as .jsonl")
    if config.num is not None and config.num < 1:
        raise ValueError(f"--num {config.num}: write at least one row")
    data = DataConfig(task=config.task, dataset_name=config.source, image_root=config.image_root)
    examples, _ = load_examples(data, quarantine_file=None)
    templates = load_templates(config.prompt_template)
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = out.with_name(f"{out.name}.tmp")
    chosen = examples[: config.num]
    with staged.open("w", encoding="utf-8") as file:
        for number, example in enumerate(chosen):
            file.write(json.dumps(conversation(example, number, out, templates), ensure_ascii=False) + "\n")
    staged.replace(out)
    return len(chosen)


def conversation(example: Example, number: int, out: Path, templates: Templates) -> dict:
    """One row {id, messages, images}; its pictures are in place afterwards, paths relative to the file's folder."""
    task = get_task(example.task)
    (turn,) = task.messages(example, "baseline", templates)
    question = "".join("<image>" if part["type"] == "image" else part["text"] for part in turn["content"])
    images = [placed(picture, f"{number:06d}_{i}", out) for i, picture in enumerate(example.images)]
    reply = {"role": "assistant", "content": task.show(example.answer)}
    return {"id": number, "messages": [{"role": "user", "content": question}, reply], "images": images}


def placed(picture: str | bytes, name: str, out: Path) -> str:
    """Where a picture is, below the file's folder; what is not there yet is written or copied."""
    folder = out.with_name(f"{out.stem}_images")
    if isinstance(picture, str):
        inside = os.path.relpath(picture, out.parent)
        if not inside.startswith(".."):
            return inside
        folder.mkdir(exist_ok=True)
        target = folder / f"{name}{Path(picture).suffix}"
        shutil.copyfile(picture, target)
        return f"{folder.name}/{target.name}"
    suffix = next((suffix for mark, suffix in _SIGNATURES.items() if picture.startswith(mark)), ".png")
    folder.mkdir(exist_ok=True)
    (folder / f"{name}{suffix}").write_bytes(picture)
    return f"{folder.name}/{name}{suffix}"
