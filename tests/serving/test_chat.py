# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm chat` prints what the reference implementation wrote, and draws the box of an answer."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from r1_mllm import cli
from r1_mllm.config.chat import ChatConfig
from r1_mllm.records import Prompt, View
from r1_mllm.report.pictures import READ_COLOR
from r1_mllm.serving import chat

CASE = Path(__file__).resolve().parents[1] / "golden/cases/e2e"


def test_the_answer_is_the_recorded_one(capsys):
    conversations = json.loads((CASE / "case.json").read_text(encoding="utf-8"))["conversations"]
    single = next(c for c in conversations if len(c["messages"]) == 1 and c["images"])
    pictures = [word for name in single["images"] for word in ("--image", str(CASE / "images" / name))]
    question = single["messages"][0]["content"][-1]["text"]
    cli.main(["chat", "--model_path", str(CASE / "checkpoint"), *pictures, question, "--max_new_tokens", "20"])
    assert single["generated_text"] in capsys.readouterr().out


def test_the_box_is_drawn_where_it_is_in_the_original_picture(tmp_path):
    source, out = tmp_path / "a.png", tmp_path / "b.png"
    Image.new("RGB", (200, 100), "white").save(source)
    view = View((200, 100), (100, 50), "seen_px")
    prompt = Prompt(np.zeros(1, np.int64), np.zeros((3, 1), np.int64), 1, views=(view,))
    config = ChatConfig("m", "Where?", (str(source),), save_box=str(out))
    chat._save_box(config, "<think>[1, 1, 2, 2]</think><answer>[10, 5, 40, 20]</answer>", prompt)
    red = np.argwhere((np.asarray(Image.open(out)) == READ_COLOR).all(axis=2))
    assert red.min(axis=0).tolist() == [10, 20] and red.max(axis=0).tolist() == [40, 80]


def test_a_turned_photograph_and_a_box_written_backwards_are_drawn_as_seen(tmp_path):
    source, out = tmp_path / "a.jpg", tmp_path / "b.png"
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown a quarter turn clockwise: 100 x 200
    Image.new("RGB", (200, 100), "white").save(source, exif=turned)
    prompt = Prompt(
        np.zeros(1, np.int64), np.zeros((3, 1), np.int64), 1, views=(View((100, 200), (50, 100), "seen_px"),)
    )
    chat._save_box(ChatConfig("m", "Where?", (str(source),), save_box=str(out)), "[40, 60, 10, 20]", prompt)
    seen = np.asarray(Image.open(out))
    drawn = np.argwhere((seen == READ_COLOR).all(axis=2))
    assert seen.shape == (200, 100, 3)
    assert drawn.min(axis=0).tolist() == [40, 20] and drawn.max(axis=0).tolist() == [120, 80]


@pytest.mark.parametrize(
    "words, code",
    [
        (["--model_path", str(CASE / "checkpoint"), " "], 64),
        (["--model_path", str(CASE / "none"), "Why?"], 66),
        (["--model_path", str(CASE / "checkpoint"), "--image", "none.png", "Why?"], 65),
        (["--model_path", str(CASE / "checkpoint"), "<|im_end|>"], 65),
        (["Why?"], 2),
    ],
)
def test_what_cannot_be_asked_ends_with_its_code(words, code):
    with pytest.raises(SystemExit) as ended:
        cli.main(["chat", *words])
    assert ended.value.code == code
