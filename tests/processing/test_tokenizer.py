# SPDX-License-Identifier: Apache-2.0
"""Tokenizer files: what is read from where, what must never be sampled, which faults are named."""

import json
import shutil
from pathlib import Path

import pytest

from r1_mllm.processing.tokenizer import Tokenizer

CHECKPOINT = Path(__file__).parents[1] / "golden" / "cases" / "e2e" / "checkpoint"
FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "generation_config.json", "config.json")


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        shutil.copyfile(CHECKPOINT / name, tmp_path / name)
    return tmp_path


def _edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_vision_tokens_and_rows_without_text_are_banned_and_nothing_else(folder):
    banned = Tokenizer.from_pretrained(folder).banned_ids.tolist()
    assert banned == [2009, 2010, 2011, 2012, 2013, *range(2022, 2048)]


def test_without_config_only_known_ids_are_banned(folder):
    (folder / "config.json").unlink()
    assert Tokenizer.from_pretrained(folder).banned_ids.tolist() == [2009, 2010, 2011, 2012, 2013]


def test_the_vocabulary_size_is_found_in_nested_configs(folder):
    (folder / "config.json").write_text(json.dumps({"text_config": {"vocab_size": 2030}}))
    assert Tokenizer.from_pretrained(folder).banned_ids[-1] == 2029


def test_stop_ids_are_those_of_generation_and_of_the_tokenizer(folder):
    assert Tokenizer.from_pretrained(folder).stop_ids == (2000, 2002)
    _edit(folder / "generation_config.json", eos_token_id=2000)
    assert Tokenizer.from_pretrained(folder).stop_ids == (2000, 2002)
    (folder / "generation_config.json").unlink()
    assert Tokenizer.from_pretrained(folder).stop_ids == (2002,)


def test_pad_is_the_settings_token(folder):
    assert Tokenizer.from_pretrained(folder).pad_id == 2000


def test_tokens_written_as_objects_are_read(folder):
    _edit(folder / "tokenizer_config.json", eos_token={"content": "<|file_sep|>", "special": True})
    assert 2021 in Tokenizer.from_pretrained(folder).stop_ids


def test_a_token_whose_id_disagrees_is_an_error(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["added_tokens_decoder"]["2012"]["content"] = "<|other|>"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"<\|other\|>.* has id 2022, not 2012"):
        Tokenizer.from_pretrained(folder)


def test_tokens_listed_only_in_the_settings_are_added(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["added_tokens_decoder"]["2022"] = {"content": "<point>", "special": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert Tokenizer.from_pretrained(folder).encode("a<point>")[-1] == 2022


@pytest.mark.parametrize("content", ["{", "[]", '{"model": {"type": "BPE", "vocab": 3}}'])
def test_a_broken_file_is_named(folder, content):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        Tokenizer.from_pretrained(folder)


def test_no_vocabulary_at_all_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"neither tokenizer\.json nor vocab\.json with merges\.txt"):
        Tokenizer.from_pretrained(tmp_path)


def test_a_missing_template_names_the_files_it_may_be_in(folder):
    _edit(folder / "tokenizer_config.json", chat_template=None)
    with pytest.raises(ValueError, match=r"chat_template\.jinja"):
        Tokenizer.from_pretrained(folder).render([{"role": "user", "content": "hi"}])


def test_ids_without_text_decode_to_nothing(folder):
    tokenizer = Tokenizer.from_pretrained(folder)
    hello = tokenizer.encode("Hello")
    assert tokenizer.decode([*hello, 2040, 2002], skip_special_tokens=True) == "Hello"


def test_many_texts_encode_like_one_by_one(folder):
    tokenizer = Tokenizer.from_pretrained(folder)
    texts = ["Hello, world!", "", "<|im_end|>x"]
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == [
        tokenizer.encode(text).tolist() for text in texts
    ]
