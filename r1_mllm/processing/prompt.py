# SPDX-License-Identifier: Apache-2.0
"""Messages and pictures become a `Prompt`: the ids, positions and patches the model reads.

Letters: P prompt tokens, N patches, I pictures.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..records import BoxUnits, Prompt, View
from .image import MAX_PX, PixelConfig, Source, image_size, open_image, patches, read_json
from .positions import rope_positions
from .tokenizer import VISION_TOKENS, Tokenizer

BOX_UNITS: dict[str, BoxUnits] = {"qwen2_vl": "per_mille", "qwen2_5_vl": "seen_px"}
"""model_type in config.json -> the space that family writes boxes in."""
# A chat that ends inside a question is another chat; pictures come as parts of a message, never as text.
REFUSED_IN_TEXT = (*VISION_TOKENS, "<|im_start|>", "<|im_end|>")
MAX_CACHED_CHATS = 4096
_OPENED = re.compile(r"<think>\s*\Z")

log = logging.getLogger(__name__)


class Processor:
    """Everything between an example and the model, as one checkpoint folder defines it; threads may share one."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        pixels: PixelConfig,
        box_units: BoxUnits,
        tokens_per_second: float | None = None,
        max_px: int = MAX_PX,
    ) -> None:
        self.tokenizer, self.pixels, self.box_units = tokenizer, pixels, box_units
        self.tokens_per_second, self.max_px = tokens_per_second, max_px
        self._chats: dict[str, tuple[str, np.ndarray]] = {}
        self._chats_lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_chats_lock"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state, _chats_lock=threading.Lock())

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        chat_template: str | None = None,
    ) -> Processor:
        """Read tokenizer, template and picture settings of a checkpoint folder; limits and template given here win.

        A folder without a chat template (a base model's) gets the generic one, and the log says so.
        """
        config = read_json(Path(folder) / "config.json") if (Path(folder) / "config.json").is_file() else {}
        family = config.get("model_type")
        if family not in BOX_UNITS:
            known = " or ".join(BOX_UNITS)
            raise ValueError(f"{Path(folder) / 'config.json'}: model_type is {family!r}, expected {known}")
        tokens_per_second = None
        if family == "qwen2_5_vl":
            tokens_per_second = float((config.get("vision_config") or {}).get("tokens_per_second", 4))
        pixels = PixelConfig.from_pretrained(folder).with_limits(min_pixels, max_pixels)
        tokenizer = Tokenizer.from_pretrained(folder, chat_template)
        if tokenizer.template is None:
            log.warning(
                "%s has no chat template, as base models have none: using the generic one (ChatML). --chat_template "
                "r1_zero asks in plain text and opens the thinking instead; --chat_template FILE.jinja takes yours",
                folder,
            )
            tokenizer = Tokenizer.from_pretrained(folder, "generic")
        return cls(tokenizer, pixels, BOX_UNITS[family], tokens_per_second)

    def encode(
        self, messages: Sequence[Mapping[str, Any]], images: Sequence[Source] = (), add_generation_prompt: bool = True
    ) -> Prompt:
        """Prepare a chat; `images` (paths, file contents or PIL pictures) fill its image parts in order.

        Raises:
            ValueError: unreadable picture (named), or as many pictures as image parts were expected.
        """
        text, ids = self._chat(messages, add_generation_prompt)
        return self.prompt_of(text, ids, images, add_generation_prompt)

    def prompt_of(
        self, text: str, ids: np.ndarray, images: Sequence[Source] = (), add_generation_prompt: bool = True
    ) -> Prompt:
        """Prepare a chat given as `rendered` gives it."""
        opening = _OPENED.search(text) if add_generation_prompt else None
        return replace(self.encode_ids(ids, images), text=text, opening=opening.group() if opening else "")

    def encode_ids(self, ids: np.ndarray, images: Sequence[Source] = (), answers: np.ndarray | None = None) -> Prompt:
        """Prepare ids [n] int64 with one placeholder per picture; `answers` [n] bool marks what is to be learnt."""
        self.check_count(ids, len(images))
        pixels, grids, views = self._read(images)
        full = self.expand(ids, grids)
        if answers is not None and len(full) > len(ids):
            answers = np.repeat(answers, self._repeats(ids, grids, self.tokenizer.image_pad_id))
        marks = (self.tokenizer.image_pad_id, self.tokenizer.video_pad_id)
        positions, next_position = rope_positions(full, grids, marks, self.pixels.merge_size, self.tokens_per_second)
        return Prompt(full, positions, next_position, pixels, grids, views, answers=answers)

    def prompt_length(self, messages: Sequence[Mapping[str, Any]], image_sizes: Sequence[tuple[int, int]] = ()) -> int:
        """Count the tokens `encode` would give, from the (width, height) px of the pictures (see `image_size`)."""
        _, ids = self._chat(messages, add_generation_prompt=True)
        self.check_count(ids, len(image_sizes))
        return len(ids) + sum(self.pixels.num_tokens(size) - 1 for size in image_sizes)

    def image_size(self, source: Source) -> tuple[int, int]:
        """Read (width, height) px of a picture from its header."""
        return image_size(source, self.max_px)

    def views(self, sources: Sequence[Source]) -> tuple[View, ...]:
        """Say how `encode` will show pictures, from their headers."""
        sizes = [self.image_size(source) for source in sources]
        seen = [self.pixels.seen_hw(height, width) for width, height in sizes]
        return tuple(View(wh, (hw[1], hw[0]), self.box_units) for wh, hw in zip(sizes, seen, strict=True))

    def expand(self, ids: np.ndarray, grids: np.ndarray | None, pad_id: int | None = None) -> np.ndarray:
        """Repeat each placeholder for the merged visual tokens of its grid.

        Args:
            ids: [n] int64 with one placeholder per picture.  grids: [I, 3] patches (t, h, w), or None without any.
            pad_id: the placeholder; None: the image's.
        """
        if grids is None:
            return ids
        return np.repeat(ids, self._repeats(ids, grids, self.tokenizer.image_pad_id if pad_id is None else pad_id))

    def _repeats(self, ids: np.ndarray, grids: np.ndarray, pad_id: int) -> np.ndarray:
        counts = np.ones(len(ids), np.int64)
        counts[ids == pad_id] = np.asarray(grids).prod(axis=1) // self.pixels.merge_size**2
        return counts

    def _chat(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool) -> tuple[str, np.ndarray]:
        """Rendered text and ids [n] before expansion; rendered once per distinct chat."""
        key = json.dumps([add_generation_prompt, messages], default=lambda _: "")
        with self._chats_lock:  # the worker that renders answers one at a time anyway
            if key not in self._chats:
                while len(self._chats) >= MAX_CACHED_CHATS:
                    self._chats.pop(next(iter(self._chats)))
                self._chats[key] = self.rendered(messages, add_generation_prompt)
            return self._chats[key]

    def rendered(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> tuple[str, np.ndarray]:
        """Text of a chat and its ids [n] int64 with one placeholder per picture; nothing is kept for the next time."""
        check_texts(messages)
        text = self.tokenizer.render(messages, add_generation_prompt)
        return text, self.tokenizer.encode(text)

    def check_count(self, ids: np.ndarray, num_images: int) -> None:
        """Refuse ids [n] whose placeholders are not as many as the pictures."""
        num_marks = int((ids == self.tokenizer.image_pad_id).sum())
        if num_marks != num_images:
            raise ValueError(f"the chat has room for {num_marks} picture(s) but {num_images} were given")
        if (ids == self.tokenizer.video_pad_id).any():
            raise ValueError("the chat has a video part; videos are not decoded, give its frames as pictures")

    def _read(self, images: Sequence[Source]) -> tuple[np.ndarray | None, np.ndarray | None, tuple[View, ...]]:
        """Patches [N, 1176] float32, grids [I, 3] int64 and views of the pictures; each is written in place once."""
        if not images:
            return None, None, ()
        opened = [open_image(source, self.max_px) for source in images]
        seen = [self.pixels.seen_hw(image.height, image.width) for image in opened]
        ends = np.cumsum([height * width // self.pixels.patch_size**2 for height, width in seen])
        row_size = 3 * self.pixels.temporal_patch_size * self.pixels.patch_size**2
        pixels = np.empty((int(ends[-1]), row_size), np.float32)
        grids, views = [], []
        for image, start, end in zip(opened, [0, *ends[:-1]], ends, strict=True):
            _, grid, original_wh, seen_wh = patches(image, self.pixels, out=pixels[start:end])
            grids.append(grid)
            views.append(View(original_wh, seen_wh, self.box_units))
        return pixels, np.stack(grids), tuple(views)


def check_texts(messages: Sequence[Mapping[str, Any]]) -> None:
    """Refuse control tokens written out in what people said."""
    for text in _texts(messages):
        found = next((token for token in REFUSED_IN_TEXT if token in text), None)
        if found:
            where = text.find(found)
            raise ValueError(f"text {text[max(0, where - 20) : where + 40]!r} holds the control token {found}")


def _texts(messages: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    for message in messages:
        content = message.get("content") or ""
        if isinstance(content, str):
            yield content
            continue
        yield from (part["text"] for part in content if isinstance(part.get("text"), str))
