# SPDX-License-Identifier: Apache-2.0
"""Miniature data sets in the layout the evaluation commands expect, and an engine that says what it is told."""

import json

import numpy as np
import pytest
from PIL import Image

from r1_mllm.records import Completion, Prompt, View

REC_SETS = {"refcoco_val": "coco", "refcocop_val": "coco", "refcocog_val": "coco", "refgta_subsample": "refgta"}


class ScriptedEngine:
    """Answers with the given texts in turn; keeps the calls it got."""

    def __init__(self, texts):
        self.texts = list(texts)
        self.calls = []

    def generate(self, prompts, n, seed, greedy=False, max_new_tokens=None):
        self.calls.append((len(prompts), n, seed, greedy, max_new_tokens))
        answers = [self.texts.pop(0) for _ in prompts]
        ids = np.array([1], dtype=np.int64)
        return [[Completion(ids, np.zeros(1, np.float32), text, True)] for text in answers]


class PlainProcessor:
    """Turns messages into a prompt without a model: the text, and a view that halves each picture's sides."""

    box_units = "seen_px"

    def encode(self, messages, images):
        texts = [part["text"] for message in messages for part in message["content"] if part["type"] == "text"]
        views = []
        for image in images:
            with Image.open(image) as opened:
                width, height = opened.size
            views.append(View((width, height), (width // 2, height // 2), self.box_units))
        ids = np.arange(3, dtype=np.int64)
        return Prompt(ids, np.zeros((3, 3), np.int64), 3, views=tuple(views), text="<user>" + "".join(texts))


@pytest.fixture
def scripted_engine():
    return ScriptedEngine


@pytest.fixture
def plain_processor():
    return PlainProcessor()


def picture(path, width, height, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (shade, 90, 255 - shade)).save(path)


def rec_row(index, folder, root):
    width, height = 120 + 20 * index, 90
    box = [10.5, 20.0, 60.0 + index, 70.0]
    image = f"train2014/COCO_train2014_{index:012d}.jpg"
    picture(root / "data" / folder / image, width, height, 40 * index)
    normalized = [round(1000 * edge / (height if i % 2 else width)) for i, edge in enumerate(box)]
    return {
        "image": image,
        "problem": f"Please provide the bounding box coordinate of the region this sentence describes: shape {index}.",
        "solution": box,
        "normalized_solution": normalized,
        "normal_caption": f"shape {index}",
    }


@pytest.fixture
def project(tmp_path):
    """A folder laid out as the predecessor's README asks: data/rec_jsons_processed, data/coco, data/Geo170K ..."""
    jsons = tmp_path / "data" / "rec_jsons_processed"
    jsons.mkdir(parents=True)
    for name, folder in REC_SETS.items():
        rows = [rec_row(index, folder, tmp_path) for index in range(1, 5)]
        (jsons / f"{name}.json").write_text(json.dumps(rows))
    counting = []
    for index in range(3):
        picture(tmp_path / f"data/superclevr_200/images/superCLEVR_new_02500{index}.png", 96, 64, 80 * index)
        path = f"./images/superCLEVR_new_02500{index}.png"
        row = {"image_path": path, "question": "How many different items are there in the image?"}
        counting.append({**row, "ground_truth": index + 3})
    geometry = []
    for index, answer in enumerate(["140\u00b0", "\u221a{3}", "5cm"]):
        picture(tmp_path / f"data/Geo170K/images/test/{index}.png", 80, 60, 70 * index)
        path = f"./Geo170K/images/test/{index}.png"
        geometry.append({"image_path": path, "question": f"Find angle {index}.", "ground_truth": answer})
    for name, rows in (("superclevr_test200_counting_problems", counting), ("geoqa_test_prompts", geometry)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (tmp_path / "data" / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path
