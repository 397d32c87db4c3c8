# SPDX-License-Identifier: Apache-2.0
"""Rows of published mathematics sets, brought to the columns that tasks read: question, options, answer, images.

A layout is known by its columns.  Rows of no known layout stay as they are.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]

_HIGHLIGHTED = "Answer (final answer highlighted)"
_ANSWER_MACRO = re.compile(r"\\answer\s?\{((?:[^{}]|\{[^{}]*\})*)\}")
_INCORRECT = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def canonical(row: Mapping[str, Any], where: str) -> Row:
    """Bring a row to question/options/answer/images; its other columns stay.  ValueError names `where`."""
    name = layout_of(row)
    known = _LAYOUTS[name][1](dict(row), where) if name else dict(row)
    if known.get("videos"):
        raise ValueError(f"{where}: {len(known['videos'])} videos; only pictures are read")
    return known


def layout_of(row: Mapping[str, Any]) -> str | None:
    """Name a row's layout by its columns; None for one that is not listed here."""
    return next((name for name, (columns, _) in _LAYOUTS.items() if columns <= row.keys()), None)


def _verl(row: Row, where: str) -> Row:
    """verl: prompt (messages), images, reward_model.ground_truth, extra_info."""
    extra = row.get("extra_info") or {}
    turns = row["prompt"] if isinstance(row["prompt"], Sequence) else ()
    said = {turn.get("role"): turn.get("content") for turn in turns if isinstance(turn, Mapping)}
    asked = said.get("user")
    if not isinstance(asked, str) or not said.keys() <= {"system", "user"} or len(said) != len(turns):
        raise ValueError(f"{where}: prompt must be one user turn, with or without a system turn before it")
    num_marks, num_images = asked.count("<image>"), len(row.get("images") or ())
    if num_marks != num_images:
        raise ValueError(f"{where}: {num_marks} <image> marks in the prompt but {num_images} pictures; make them agree")
    answer = (row["reward_model"] or {}).get("ground_truth")
    if answer is None or answer == "":
        raise ValueError(f"{where}: reward_model has no ground_truth")
    question = extra.get("question")
    if not question or not asked.startswith(question):  # what follows the question is another template's instruction
        question = asked
    source = {key: value for key, value in source_row(extra).items() if key not in ("image", "images", "decoded_image")}
    rest = {key: row[key] for key in ("data_source", "ability", "extra_info") if key in row}
    shown = {"problem": question, "images": row.get("images"), "answer": answer, "videos": row.get("videos")}
    number = {"id": extra.get("id", extra.get("index"))} if "id" not in source else {}
    said_first = {"system": said["system"]} if said.get("system") else {}
    return {**source, **rest, **number, **said_first, **shown}


def source_row(extra_info: Mapping[str, Any]) -> Row:
    """The row that `r1-mllm data convert` kept in extra_info.source; empty for files of other programs."""
    text = extra_info.get("source")
    try:
        return json.loads(text) if isinstance(text, str) and text.startswith("{") else {}
    except RecursionError as error:
        raise ValueError("extra_info.source is nested too deeply") from error


def _polymath(row: Row, where: str) -> Row:
    """PolyMath: the question is drawn in the picture; answer_option, final_answer, category."""
    question = row.get("question") or "Answer the question that the picture asks."
    if row.get("answer_option"):
        question += f"\nPossible answers: {row['answer_option']}"
    return {**row, "question": question, "answer": row["final_answer"]}


def _scemqa(row: Row, where: str) -> Row:
    r"""SceMQA: options stand in the question; free answers are marked \answer{...}, the first one counts."""
    found = _ANSWER_MACRO.findall(str(row[_HIGHLIGHTED]))
    answer = found[0].strip() if found else row[_HIGHLIGHTED]
    rest = {key: value for key, value in row.items() if key not in ("Question", "ImagePath", _HIGHLIGHTED)}
    return {**rest, "question": row["Question"], "answer": answer, "image": row.get("ImagePath")}


def _wemath(row: Row, where: str) -> Row:
    """We-Math: options are one text, written under the question as it is."""
    number = {} if "id" in row else {"id": f"{row.get('ID')}/{row.get('split')}"}
    return {**row, **number, "question": f"{row['question']}\n{row['option']}"}


def _mathvista(row: Row, where: str) -> Row:
    """MathVista: the right choice is given as text; unit and precision are part of the question."""
    choices = [str(choice) for choice in row.get("choices") or ()]
    answer, question = str(row.get("answer") or ""), str(row["question"])
    if choices and answer in choices:
        answer = chr(ord("A") + choices.index(answer))
    if row.get("unit"):
        question += f" (unit: {row['unit']})"
    if row.get("precision") and row.get("answer_type") == "float":
        question += f" (round to {int(row['precision'])} decimal places)"
    return _with_decoded({**row, "id": row["pid"], "question": question, "options": choices, "answer": answer})


def _mathverse(row: Row, where: str) -> Row:
    """MathVerse: in its vision-only version the question stands in the picture."""
    question = row.get("question") or "Answer the question that the picture asks."
    text_only = str(row.get("problem_version", "")).lower().replace("_", " ") == "text only"
    number = {"id": row.get("sample_index", row.get("problem_index"))}
    return _with_decoded({**row, **number, "question": question, **({"image": None} if text_only else {})})


def _mathvision(row: Row, where: str) -> Row:
    """MathVision: question with <image1> marks, options, answer, image (a path) or decoded_image."""
    return _with_decoded(row)


def _with_decoded(row: Row) -> Row:
    """Take the picture from decoded_image, which hub copies have beside the path."""
    decoded = row.pop("decoded_image", None)
    return {**row, "image": decoded} if decoded else row


def _gpqa(row: Row, where: str) -> Row:
    """GPQA: the right answer among three wrong ones, in an order that follows from the question's checksum."""
    texts = [str(row[name]).strip() for name in ("Correct Answer", *_INCORRECT)]
    order = np.random.Generator(np.random.Philox(zlib.crc32(row["Question"].encode()))).permutation(len(texts))
    answer = chr(ord("A") + order.tolist().index(0))
    rest = {key: value for key, value in row.items() if key not in ("Question", "Correct Answer", *_INCORRECT)}
    number = {} if "id" in row else {"id": row.get("Record ID")}
    return {**rest, **number, "question": row["Question"], "options": [texts[i] for i in order], "answer": answer}


def _aime(row: Row, where: str) -> Row:
    """AIME lists: Problem, Answer (a number), ID."""
    rest = {key: value for key, value in row.items() if key not in ("Problem", "Answer", "Solution")}
    return {**rest, "id": row.get("ID", row.get("id")), "question": row["Problem"], "answer": row["Answer"]}


def _as_it_is(row: Row, where: str) -> Row:
    """Geometry3K and EasyR1: problem, answer, images; MATH: problem, answer (or a boxed one in solution)."""
    return row


_LAYOUTS: dict[str, tuple[set[str], Callable[[Row, str], Row]]] = {
    "verl": ({"prompt", "reward_model"}, _verl),
    "polymath": ({"final_answer", "answer_option"}, _polymath),
    "scemqa": ({"Question", _HIGHLIGHTED}, _scemqa),
    "wemath": ({"question", "option", "answer", "image_path"}, _wemath),
    "mathvista": ({"pid", "question", "question_type"}, _mathvista),
    "mathverse": ({"problem_version", "answer"}, _mathverse),
    "gpqa": ({"Question", "Correct Answer", *_INCORRECT}, _gpqa),
    "aime": ({"Problem", "Answer"}, _aime),
    "mathvision": ({"question", "options", "answer", "level", "subject"}, _mathvision),
    "easyr1": ({"problem", "answer", "images"}, _as_it_is),
}
"""Name -> (columns that tell it, how to read it); the first one that fits."""
