# SPDX-License-Identifier: Apache-2.0
"""Text to token ids and back, chats to text, and the ids with a meaning of their own, all from a checkpoint folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from .image import read_json
from .template import ChatTemplate, named_template, template_source

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
"""Stand for pictures; a model that could sample one would promise a picture that is not there."""
END_TOKENS = ("<|im_end|>", "<|endoftext|>")
# Qwen2's split into words, as its tokenizer.json states it: contractions, letters, single digits, marks, line ends.
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer:
    """A byte-level BPE vocabulary with its chat template and special ids."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        template: ChatTemplate | None = None,
        stop_ids: Iterable[int] = (),
        pad_id: int | None = None,
        model_vocab_size: int | None = None,
    ) -> None:
        """`model_vocab_size`: rows of the model's output layer, which may exceed the ids that have a text."""
        self.backend, self.template = backend, template
        self.stop_ids: tuple[int, ...] = tuple(sorted(set(stop_ids)))
        self.pad_id = pad_id
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.num_ids = max(vocabulary.values()) + 1
        self._model_vocab_size = max(model_vocab_size or 0, self.num_ids)
        self._used_ids = np.fromiter(vocabulary.values(), np.int64)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, chat_template: str | None = None) -> Tokenizer:
        """Read tokenizer.json, or vocab.json with merges.txt, and the settings beside it.

        Args:
            chat_template: a built-in name or a .jinja file (`template.named_template`) instead of the folder's own;
                generation then also stops at the family's end tokens, which a base model's settings may not list.

        ValueError naming the file that is missing or broken.
        """
        folder = Path(folder)
        settings = {**_optional(folder / "special_tokens_map.json"), **_optional(folder / "tokenizer_config.json")}
        config = _optional(folder / "config.json")
        backend = _read_backend(folder, settings)
        named = {key: _content(value) for key, value in settings.items() if key.endswith("_token")}
        named = {key: value for key, value in named.items() if value is not None}
        eos = _optional(folder / "generation_config.json").get("eos_token_id", config.get("eos_token_id"))
        stops = set(eos) if isinstance(eos, list) else {eos}
        stops.add(backend.token_to_id(named.get("eos_token", "")))
        source = template_source(folder) if chat_template is None else named_template(chat_template)
        if chat_template is not None:
            stops |= {backend.token_to_id(token) for token in END_TOKENS}
        return cls(
            backend,
            template=None if source is None else ChatTemplate(source, named, f"{folder}: chat template"),
            stop_ids=stops - {None},
            pad_id=backend.token_to_id(named.get("pad_token", "<|endoftext|>")),
            model_vocab_size=config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size"),
        )

    def encode(self, text: str) -> np.ndarray:
        """Ids [n] int64; special tokens written out in the text become their id, nothing is added around it."""
        return np.array(self.backend.encode(text, add_special_tokens=False).ids, np.int64)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids [n] int64 of each text, encoded in parallel where TOKENIZERS_PARALLELISM allows."""
        encoded = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(one.ids, np.int64) for one in encoded]

    def decode(self, ids: Sequence[int] | np.ndarray, skip_special_tokens: bool = False) -> str:
        """Text of ids; ids without a text add nothing, bytes that are not UTF-8 become U+FFFD."""
        return self.backend.decode([int(token) for token in ids], skip_special_tokens=skip_special_tokens)

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """Write a chat out as text with the checkpoint's template; other `variables` (add_vision_id) reach it too."""
        if self.template is None:
            raise ValueError(
                "this checkpoint has no chat template: add chat_template.jinja, chat_template.json or "
                "`chat_template` in tokenizer_config.json"
            )
        return self.template.render(messages, add_generation_prompt=add_generation_prompt, **variables)

    def token_id(self, token: str) -> int:
        """Id of a token by name; ValueError when the vocabulary lacks it."""
        found = self.backend.token_to_id(token)
        if found is None:
            raise ValueError(f"the tokenizer has no token {token!r}; this is not a Qwen2-VL vocabulary")
        return found

    @cached_property
    def image_pad_id(self) -> int:
        """Placeholder of one merged visual token of a picture."""
        return self.token_id("<|image_pad|>")

    @cached_property
    def video_pad_id(self) -> int:
        """Placeholder of one merged visual token of a video."""
        return self.token_id("<|video_pad|>")

    @cached_property
    def vision_ids(self) -> np.ndarray:
        """Sorted int64 ids of the tokens that stand for pictures."""
        found = [self.backend.token_to_id(token) for token in VISION_TOKENS]
        return np.array(sorted(token for token in found if token is not None), np.int64)

    @cached_property
    def banned_ids(self) -> np.ndarray:
        """Sorted int64 ids that must never be sampled: vision tokens and rows of the output layer without a text."""
        without_text = np.setdiff1d(np.arange(self._model_vocab_size), self._used_ids)
        return np.union1d(self.vision_ids, without_text)


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _content(token: Any) -> str | None:
    """Text of a token written as a string or as an object."""
    return token.get("content") if isinstance(token, dict) else token


def _read_backend(folder: Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Read or build the tokenizer and add the tokens only the settings list."""
    path, vocab, merges = folder / "tokenizer.json", folder / "vocab.json", folder / "merges.txt"
    # `tokenizers` raises bare Exception for every broken file, so the file is checked before and quoted here.
    if path.is_file():
        read_json(path)
        backend = _named(path, lambda: tokenizers.Tokenizer.from_file(str(path)))
    elif vocab.is_file() and merges.is_file():
        read_json(vocab)
        backend = _named(merges, lambda: _qwen2_backend(vocab, merges))
    else:
        raise ValueError(f"{folder} has neither tokenizer.json nor vocab.json with merges.txt")
    for token, wanted in _added_tokens(folder, settings):
        if backend.token_to_id(token.content) is None:
            backend.add_special_tokens([token]) if token.special else backend.add_tokens([token])
        if backend.token_to_id(token.content) != wanted:
            raise ValueError(
                f"{folder}: token {token.content!r} has id {backend.token_to_id(token.content)}, not {wanted}"
            )
    return backend


def _named(path: Path, build: Any) -> tokenizers.Tokenizer:
    try:
        return build()
    except Exception as error:
        if type(error) is not Exception and not isinstance(error, ValueError | OSError):
            raise
        raise ValueError(f"{path}: {error}") from error


def _qwen2_backend(vocab: Path, merges: Path) -> tokenizers.Tokenizer:
    """Build Qwen2's pipeline: NFC, words, bytes, merges."""
    backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    backend.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(tokenizers.Regex(QWEN2_WORDS), behavior="isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_only])
    backend.decoder = decoders.ByteLevel()
    return backend


def _added_tokens(folder: Path, settings: Mapping[str, Any]) -> list[tuple[tokenizers.AddedToken, int]]:
    """Tokens and ids that tokenizer_config.json or added_tokens.json list, in the order of ids."""
    listed = settings.get("added_tokens_decoder") or {}
    special = {_content(token) for token in settings.get("additional_special_tokens") or ()}
    special |= {_content(value) for key, value in settings.items() if key.endswith("_token")}
    found = {}
    for content, index in _optional(folder / "added_tokens.json").items():
        found[content] = tokenizers.AddedToken(content, special=content in special, normalized=False), int(index)
    for index, entry in listed.items():
        flags = {name: bool(entry.get(name)) for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        found[entry["content"]] = tokenizers.AddedToken(entry["content"], **flags), int(index)
    return sorted(found.values(), key=lambda pair: pair[1])
