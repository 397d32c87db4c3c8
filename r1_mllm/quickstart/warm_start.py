# SPDX-License-Identifier: Apache-2.0
"""Teach the small model to see, then to be sloppy: right answers to easy scenes, then a careless annotator's.

GRPO cannot teach a small model to see in minutes; it chooses among what the model already does.  Imitating an annotator
whose answers have the right form and are often wrong leaves a model that can do better than it does, which is what
rewards are good at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.pack import supervised_pair
from ..data.synthetic import scene, weak_answer
from ..processing.prompt import Processor
from ..records import Group
from ..tasks import get_task
from ..tasks.templates import load_templates

STOP = "<|im_end|>"
PROMPTS = Path(__file__).with_name("prompts.yaml")
SCENES = {"math_boxed": "geometry"}
"""Task -> whose scenes it asks about, where that is another one."""


def written_answer(task: str, row: dict[str, Any], value: Any) -> str:
    """Write an answer value as the completion that is to be imitated."""
    if task == "rec":
        caption = row["normal_caption"]
        box = json.dumps([round(side) for side in value])
        return f'<think>{caption}</think><answer>{{"bbox_2d": {box}}}</answer>'
    if task == "math_boxed":
        return f"{row.get('thought', value)} \\boxed{{{value}}}"
    return f"<think>{row.get('thought', value)}</think><answer>{value}</answer>"


class Annotator:
    """Draws scenes and answers them carelessly."""

    def __init__(self, task: str, seed: int, **options: Any):
        """Args: options: fields of data.synthetic.SceneOptions."""
        self.name, self.task, self.options = task, get_task(task), options
        self.scenes = SCENES.get(task, task)
        self.rng = np.random.default_rng(seed)
        self.templates = load_templates(PROMPTS)

    def pair(self, max_objects: int, careful: bool) -> tuple[Image.Image, list[dict[str, Any]], str]:
        """A picture, the messages that ask about it, and an answer: the right one, or a careless one."""
        image, row = scene(self.scenes, self.rng, max_objects=max_objects, **self.options)
        example = self.task.example({**row, "image": "scene.png"}, "scene")
        value = example.answer if careful else weak_answer(self.scenes, row, self.rng)
        return (
            image,
            self.task.messages(example, templates=self.templates, view_units="seen_px"),
            written_answer(self.name, row, value),
        )

    def texts(self, num: int, max_objects: int) -> Iterator[str]:
        """Prompts and answers, for training a vocabulary."""
        for _ in range(num):
            _, messages, answer = self.pair(max_objects, careful=False)
            yield messages[-1]["content"][-1]["text"]
            yield answer


def batches(
    annotator: Annotator, processor: Processor, size: int, max_objects: int, careful: bool
) -> Iterator[list[Group]]:
    """Draw supervised batches without end, every scene a fresh one."""
    while True:
        batch = []
        for _ in range(size):
            image, messages, answer = annotator.pair(max_objects, careful)
            ids = processor.tokenizer.encode(answer + STOP)
            batch.append(supervised_pair(processor.encode(messages, [image]), ids, answer))
        yield batch
