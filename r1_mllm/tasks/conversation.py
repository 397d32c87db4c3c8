# SPDX-License-Identifier: Apache-2.0
"""Rows of supervised data: conversations in every layout people have, checked and written in one way.

Read are `messages` (role, content), `conversations` (from, value; ShareGPT), `prompt` with `completion`, and rows with
a question and an answer in columns of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..records import Example
from . import rows

NAME = "conversation"
"""`task` of the examples made here; their `answer` is a tuple of turns."""
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
_MARK = re.compile(r"(?:(?<![ \t])[ \t]+)?<image(\d{0,3})>[ \t]*\n?")
_QUESTIONS, _ANSWERS = ("problem", "question", "prompt", "query"), ("solution", "answer", "response", "ground_truth")

Turn = dict[str, Any]
"""role; content, a list of {"type": "image"} and {"type": "text", "text": ...}; learn: whether it enters the loss."""


def example(row: Mapping[str, Any], where: str, image_root: str | None = None) -> Example:
    """Check a row and make it an example whose `answer` is its turns.

    Picture marks <image> stand where the pictures come; a row without any has its pictures before the first question.

    Raises:
        ValueError: names `where`, the value and the cure.
    """
    said = list(_said(row, where))
    pictures = list(rows.images(row, where, image_root))
    turns = [_turn(entry, where, pictures, image_root) for entry in said]
    _check_order(turns, where)
    num_marks = sum(part["type"] == "image" for turn in turns for part in turn["content"])
    if pictures and not num_marks:
        first = next(turn for turn in turns if turn["role"] == "user")
        first["content"][:0] = [{"type": "image"} for _ in pictures]
    elif num_marks != len(pictures):
        raise ValueError(f"{where}: {num_marks} <image> marks but {len(pictures)} pictures; make them agree")
    question = next(text_of(turn) for turn in turns if turn["role"] == "user")
    meta = {"where": where} | ({"id": row["id"]} if row.get("id") is not None else {})
    return Example(NAME, question, tuple(turns), tuple(pictures), meta=meta)


def with_system(turns: Sequence[Turn], system: str | None) -> Sequence[Turn]:
    """Begin a conversation with a system prompt where it has none of its own."""
    if not system or turns[0]["role"] == "system":
        return turns
    return ({"role": "system", "content": [{"type": "text", "text": system}], "learn": False}, *turns)


def text_of(turn: Turn) -> str:
    """Join a turn's text."""
    return "".join(part["text"] for part in turn["content"] if part["type"] == "text")


def _said(row: Mapping[str, Any], where: str) -> Iterator[Mapping[str, Any]]:
    """Yield {role, content, learn} of each turn, whatever the row calls them."""
    if row.get("messages"):
        yield from _entries(row["messages"], ("role", "content"), where, "messages")
    elif row.get("conversations"):
        if row.get("system"):
            yield {"role": "system", "content": row["system"]}
        yield from _entries(row["conversations"], ("from", "value"), where, "conversations")
    elif row.get("completion") is not None:
        for field, role in (("prompt", "user"), ("completion", "assistant")):
            value = row.get(field)
            if isinstance(value, str):
                yield {"role": role, "content": value}
            else:
                yield from _entries(value, ("role", "content"), where, field)
    else:
        yield from _columns(row, where)


def _entries(turns: Any, names: tuple[str, str], where: str, field: str) -> Iterator[Mapping[str, Any]]:
    who, what = names
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        raise ValueError(f"{where}: {field} is {type(turns).__name__}; a list of {{{who}, {what}}} is needed")
    for turn in turns:
        if not isinstance(turn, Mapping) or who not in turn or what not in turn:
            raise ValueError(f"{where}: a turn of {field} has no {who} and {what}: {str(turn)[:80]}")
        learn = turn.get("weight", turn.get("loss"))
        yield {"role": turn[who], "content": turn[what], "learn": learn is None or bool(learn)}


def _columns(row: Mapping[str, Any], where: str) -> Iterator[Mapping[str, Any]]:
    question = next((row[name] for name in _QUESTIONS if isinstance(row.get(name), str) and row[name].strip()), None)
    answer = next((row[name] for name in _ANSWERS if row.get(name) not in (None, "")), None)
    if question is None or answer is None:
        raise ValueError(
            f"{where}: no conversation; a row needs `messages`, `conversations`, or a question "
            f"({', '.join(_QUESTIONS)}) and an answer ({', '.join(_ANSWERS)})"
        )
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise ValueError(
            f"{where}: the answer to learn is {type(answer).__name__}; write the text itself, as `messages`"
        )
    thinking = row.get("thinking")
    if isinstance(row.get("system"), str) and row["system"]:
        yield {"role": "system", "content": row["system"]}
    yield {"role": "user", "content": question}
    yield {"role": "assistant", "content": f"{thinking}\n\n{answer}" if thinking else str(answer)}


def _turn(said: Mapping[str, Any], where: str, pictures: list, image_root: str | None) -> Turn:
    """Write one turn in our way; pictures inside its parts are added to `pictures`."""
    role = ROLES.get(said["role"])
    if role is None:
        raise ValueError(f"{where}: unknown role {said['role']!r}; known are {', '.join(ROLES)}")
    content = said["content"]
    if isinstance(content, str):
        parts = list(_marked(content))
    elif isinstance(content, Sequence):
        parts = [part for one in content for part in _part(one, where, pictures, image_root)]
    else:
        raise ValueError(f"{where}: what {role} says is {type(content).__name__}; text or a list of parts is needed")
    if role != "user" and any(part["type"] == "image" for part in parts):
        raise ValueError(f"{where}: a picture in a turn of {role}; pictures belong to the user's turns")
    return {"role": role, "content": parts, "learn": role == "assistant" and said.get("learn", True)}


def _marked(text: str) -> Iterator[dict[str, Any]]:
    """Cut text at its picture marks."""
    start = 0
    for mark in _MARK.finditer(text):
        if mark.start() > start:
            yield {"type": "text", "text": text[start : mark.start()]}
        yield {"type": "image"}
        start = mark.end()
    if start < len(text):
        yield {"type": "text", "text": text[start:]}


def _part(part: Any, where: str, pictures: list, image_root: str | None) -> Iterator[dict[str, Any]]:
    """Read one part of a turn that is a list; parquet gives every part all keys, most of them None."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        yield {"type": "text", "text": part["text"]}
    elif kind in ("image", "image_url"):
        picture = part.get("image") or part.get("image_url") or part.get("path")
        picture = picture.get("url") if isinstance(picture, Mapping) and "url" in picture else picture
        if picture is not None:
            pictures.extend(rows.images({"image": picture}, where, image_root))
        yield {"type": "image"}
    else:
        raise ValueError(f"{where}: part {str(part)[:80]} is neither text nor image")


def _check_order(turns: Sequence[Turn], where: str) -> None:
    roles = [turn["role"] for turn in turns]
    if "system" in roles[1:]:
        raise ValueError(f"{where}: a system turn after the first one")
    spoken = roles[roles[:1] == ["system"] :]
    if not spoken or spoken[0] != "user" or spoken[-1] != "assistant":
        raise ValueError(f"{where}: turns {', '.join(roles) or 'none'}; the user begins and the assistant ends")
    if not any(turn["learn"] for turn in turns):
        raise ValueError(f"{where}: no answer is to be learnt; all of them have weight 0")
    for turn in turns:
        if turn["learn"] and not text_of(turn).strip():
            raise ValueError(f"{where}: an empty answer teaches nothing; leave the row out")
