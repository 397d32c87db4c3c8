# SPDX-License-Identifier: Apache-2.0
"""Settings of `r1-mllm chat`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ChatConfig:
    """Everything `r1-mllm chat` can be told."""

    model_path: str
    question: str
    image: tuple[str, ...] = ()
    system_prompt: str | None = None
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    save_box: str | None = None
    dtype: str = "auto"
    min_pixels: int | None = None
    max_pixels: int | None = None
    chat_template: str | None = None


def read(argv: Sequence[str], prog: str) -> ChatConfig:
    """Read the command line; the question stands without a flag."""
    parser = argparse.ArgumentParser(prog=prog, description="Ask a model one question.", allow_abbrev=False)
    add = parser.add_argument
    add("question", help="in quotes")
    add("--model_path", required=True, help="checkpoint folder, adapter folder or hub id")
    add("--image", action="append", default=[], help="a picture; may be given several times, in order")
    add("--system_prompt", default=None, help="text of the system turn; default: the chat template's")
    add("--max_new_tokens", type=_positive, default=512, help="tokens of the answer; default: 512")
    add("--temperature", type=float, default=0.0, help="0 (default): the most probable token each time")
    add("--top_p", type=float, default=1.0, help="sample among the likeliest tokens of this share; 1: all")
    add("--seed", type=int, default=None, help="default: another one every time")
    add("--save_box", default=None, help="file to write: the first picture with the answer's first box on it")
    dtypes = ["auto", "bfloat16", "float16", "float32"]
    add("--dtype", choices=dtypes, default="auto", help="of the weights; a CPU computes in float32")
    add("--min_pixels", type=int, default=None, help="least area of a picture; default: the checkpoint's")
    add("--max_pixels", type=int, default=None, help="largest area of a picture; default: the checkpoint's")
    add("--chat_template", default=None, help="default: the checkpoint's own; generic, dialogue, r1_zero or a file")
    given = vars(parser.parse_args(argv))
    return ChatConfig(**{**given, "image": tuple(given["image"])})


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise ValueError(word)
    return number
