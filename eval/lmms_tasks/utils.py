# SPDX-License-Identifier: Apache-2.0
"""What lmms-eval calls: the messages of a question, and the grade of an answer, which is ours."""

import json
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # lmms-eval lives in another environment

from r1_mllm.config import RewardConfig
from r1_mllm.records import View
from r1_mllm.tasks import get_task


def doc_to_messages(doc, lmms_eval_specific_kwargs=None):
    """Chat messages with pictures opened, in lmms-eval's layout."""
    pictures = iter(doc["images"])
    messages = []
    for message in json.loads(doc["messages"]):
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        parts = [{"type": "image", "url": _open(next(pictures))} if part["type"] == "image" else part for part in parts]
        messages.append({"role": message["role"], "content": parts})
    return messages


def doc_to_visual(doc, lmms_eval_specific_kwargs=None):
    """The pictures alone."""
    return [_open(path) for path in doc["images"]]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    """The question alone."""
    messages = json.loads(doc["messages"])
    parts = [message["content"] for message in messages]
    return "\n".join(part if isinstance(part, str) else _texts(part) for part in parts)


def doc_to_target(doc):
    """The right answer, as the data set has it."""
    return doc["row"]


def process_results(doc, results):
    """Grade an answer as `r1-mllm eval` does: `acc` right or wrong, `score` 0..1 (the IoU for rec)."""
    task = get_task(doc["task"])
    example = task.example(json.loads(doc["row"]), doc["id"])
    views = tuple(
        View(tuple(view["original_wh"]), tuple(view["seen_wh"]), view["box_units"]) for view in json.loads(doc["views"])
    )
    grade = task.grade(results[0], example, views, RewardConfig(), doc["method"])
    return {"acc": float(grade.correct), "score": float(grade.score)}


def _open(path):
    with Image.open(path) as image:
        return image.convert("RGB")


def _texts(parts):
    return "".join(part["text"] for part in parts if part["type"] == "text")
