# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm chat`: one question about pictures, answered in the terminal as it is written."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from typing import Any

from .. import runtime
from ..answers import boxes, tags
from ..config.chat import ChatConfig
from ..evaluation.load import load_asked
from ..records import Prompt
from ..report.pictures import READ_COLOR, draw_boxes, upright
from ..rollout.live import Live, Sampling, live_rows
from ..runtime import Stop
from .text import Writer


def ask(config: ChatConfig) -> str:
    """Print the answer piece by piece and return it."""
    if not config.question.strip():
        raise Stop('a question is missing: r1-mllm chat --model_path DIR --image a.png "How many ...?"')
    loaded = load_asked(config)
    try:
        prompt = loaded.processor.encode(messages(config), list(config.image))
    except (ValueError, OSError) as error:
        raise Stop(str(error), runtime.DATA) from error
    answer = ""
    for piece in pieces(loaded.engine, prompt, config):
        answer += piece
        print(piece, end="", flush=True)
    print()
    if config.save_box:
        _save_box(config, answer, prompt)
    return answer


def messages(config: ChatConfig) -> list[dict[str, Any]]:
    """The chat: pictures first, as the model was trained."""
    pictures = [{"type": "image"} for _ in config.image]
    user = {"role": "user", "content": [*pictures, {"type": "text", "text": config.question}]}
    return [{"role": "system", "content": config.system_prompt}, user] if config.system_prompt else [user]


def pieces(engine: Any, prompt: Prompt, config: ChatConfig) -> Iterator[str]:
    """Yield the answer's text as tokens come."""
    seed = secrets.randbits(63) if config.seed is None else config.seed
    (row,) = live_rows(1, seed, config.max_new_tokens, Sampling(config.temperature, config.top_p))
    live, writer = Live(engine, 1, sys.maxsize), Writer(engine.tokenizer, prompt.opening)
    live.join(prompt, [row])
    told = 0
    while live.advance():
        text = writer.feed(row.ids[told:], last=row.done)
        told = len(row.ids)
        if text:
            yield text


def _save_box(config: ChatConfig, answer: str, prompt: Prompt) -> None:
    found = boxes.first_box(tags.split(answer).answer or answer)
    if found is None or not prompt.views:
        print("no box in the answer" if prompt.views else "no picture was given", file=sys.stderr)
        return
    opened = upright(config.image[0], side=None)
    assert opened is not None  # the model has seen it
    picture, size = opened
    draw_boxes(picture, size, prompt.views[0].to_original(found), READ_COLOR)
    try:
        picture.save(config.save_box)
    except (OSError, ValueError) as error:
        raise Stop(f"--save_box {config.save_box} cannot be written: {error}", runtime.OUTPUT) from error
