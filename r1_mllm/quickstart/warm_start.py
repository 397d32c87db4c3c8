# SPDX-License-Identifier: Apache-2.0
"""Teach the small model a task's form from a weak annotator: answers in the right form, often wrong.

GRPO cannot teach a small model to see in minutes; it chooses among what the model already does.  The annotator makes
the model able and sloppy, which is what rewards are good at mending.
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


def written_answer(task: str, row: dict[str, Any], value: Any) -> str:
    """Write an answer value as the completion that is to be imitated."""
    if task == "rec":
        caption = row["normal_caption"]
        box = json.dumps([round(side) for side in value])
        return f'<think>{caption}</think><answer>{{"bbox_2d": {box}}}</answer>'
    return f"<think>{value}</think><answer>{value}</answer>"


class Annotator:
    """Draws scenes and answers them carelessly."""

    def __init__(self, task: str, side: int, seed: int):
        self.name, self.task, self.side = task, get_task(task), side
        self.rng = np.random.default_rng(seed)
        self.templates = load_templates(PROMPTS)

    def pair(self, max_objects: int) -> tuple[Image.Image, list[dict[str, Any]], str]:
        """A picture, the messages that ask about it, and an answer."""
        image, row = scene(self.name, self.rng, max_objects=max_objects, side=self.side)
        example = self.task.example({**row, "image": "scene.png"}, "scene")
        answer = written_answer(self.name, row, weak_answer(self.name, row, self.rng))
        return image, self.task.messages(example, templates=self.templates, view_units="seen_px"), answer

    def texts(self, num: int, max_objects: int) -> Iterator[str]:
        """Prompts and answers, for training a vocabulary."""
        for _ in range(num):
            _, messages, answer = self.pair(max_objects)
            yield messages[-1]["content"][-1]["text"]
            yield answer


def batches(annotator: Annotator, processor: Processor, size: int, max_objects: int) -> Iterator[list[Group]]:
    """Draw supervised batches without end, every scene a fresh one."""
    while True:
        batch = []
        for _ in range(size):
            image, messages, answer = annotator.pair(max_objects)
            ids = processor.tokenizer.encode(answer + STOP)
            batch.append(supervised_pair(processor.encode(messages, [image]), ids, answer))
        yield batch
