# SPDX-License-Identifier: Apache-2.0
"""Ids, texts and rendered chats equal those of the reference tokenizer, from every form the files come in."""

import json
import shutil

import numpy as np
import pytest

from r1_mllm.processing.image import PixelConfig
from r1_mllm.processing.prompt import Processor
from r1_mllm.processing.tokenizer import Tokenizer

FORMS = {
    "everything": (),
    "tokenizer.json and a template only": (
        *("vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"),
        *("tokenizer_config.json", "chat_template.json"),
    ),
    "vocab and merges": ("tokenizer.json", "chat_template.jinja", "chat_template.json"),
    "vocab, merges and added_tokens.json": ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
}


@pytest.fixture(params=FORMS)
def tokenizer(request, tokenizer_case, tmp_path):
    folder = shutil.copytree(tokenizer_case / "files", tmp_path / "files", copy_function=shutil.copyfile)
    folder.chmod(0o755)
    for name in FORMS[request.param]:
        (folder / name).unlink(missing_ok=True)
    return Tokenizer.from_pretrained(folder)


def _golden(folder):
    return json.loads((folder / "golden.json").read_text(encoding="utf-8"))


def test_raw_texts_encode_and_decode(tokenizer, tokenizer_case):
    for entry in _golden(tokenizer_case)["raw"]:
        ids = tokenizer.encode(entry["text"])
        assert ids.dtype == np.int64 and ids.tolist() == entry["ids"], entry["text"]
        assert tokenizer.decode(ids) == entry["decoded"]


def test_random_ids_decode(tokenizer, tokenizer_case):
    for entry in _golden(tokenizer_case)["decode"]:
        assert tokenizer.decode(entry["ids"]) == entry["text"]
        assert tokenizer.decode(entry["ids"], skip_special_tokens=True) == entry["text_skip_special"]


def test_special_tokens_have_their_ids(tokenizer, tokenizer_case):
    special = json.loads((tokenizer_case / "case.json").read_text(encoding="utf-8"))["special_ids"]
    for name, index in special.items():
        assert tokenizer.token_id(name) == index
    assert tokenizer.image_pad_id == special["<|image_pad|>"]
    assert tokenizer.video_pad_id == special["<|video_pad|>"]
    assert tokenizer.num_ids == max(special.values()) + 1


def test_chats_render_and_expand(tokenizer, tokenizer_case):
    processor = Processor(tokenizer, PixelConfig(), "seen_px")
    for entry in _golden(tokenizer_case)["conversations"]:
        switches = {name: entry[name] for name in ("add_generation_prompt", "add_vision_id")}
        text = tokenizer.render(entry["messages"], **switches)
        assert text == entry["text"]
        ids = tokenizer.encode(text)
        assert ids.tolist() == entry["ids_before_expansion"]
        ids = processor.expand(ids, np.array(entry["image_grid_thw"]).reshape(-1, 3))
        ids = processor.expand(ids, np.array(entry["video_grid_thw"]).reshape(-1, 3), tokenizer.video_pad_id)
        assert ids.tolist() == entry["input_ids"]
