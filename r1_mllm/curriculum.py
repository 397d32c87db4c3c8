# SPDX-License-Identifier: Apache-2.0
"""Forms of a question, whatever its task: judge (is this answer right?), choice (which option is?) and open.

An open example becomes a judge or a choice through its task's `distractors`; a row that already is one is read as it
is.  What comes out depends on the seed and on the example (and on the data set's answers, for labels and words) alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .answers import tags
from .records import Example
from .tasks import get_task
from .tasks.choice import LETTERS
from .tasks.classification import wrong_labels
from .tasks.templates import box_text

GIVEN_KEYS = ("solution", "ground_truth", "answer")


def example_of(row: Mapping[str, Any], where: str, task: str, forms: Sequence[str]) -> Example:
    """Make an example of a row: a judge or a choice if the row is one and such a form is wanted, else of its task.

    Raises:
        ValueError: a row that cannot be read, as its task says it.
    """
    form = given_form(row) if task not in FORMS else None
    if form is None or form not in forms:
        return get_task(task).example(row, where)
    return replace(get_task(form).example(row, where), task=get_task(task).name)


def given_form(row: Mapping[str, Any]) -> str | None:
    """Tell whether a row already is a judge or a choice: by its `form` column, else by its answer."""
    form = row.get("form")
    if isinstance(form, str) and form in FORMS:
        return None if form == "open" else form
    answer = next((row[key] for key in GIVEN_KEYS if row.get(key) not in (None, "")), None)
    if isinstance(answer, bool):
        return "judge"
    if not isinstance(answer, str):
        return None
    text = tags.unwrap(answer)
    if text.casefold() in ("yes", "no"):
        return "judge"
    letters = [piece.strip() for piece in text.split(",")]
    return "choice" if all(len(letter) == 1 and letter in LETTERS for letter in letters) else None


def formed(examples: Sequence[Example], forms: Sequence[str], seed: int, num_options: int = 4) -> list[Example]:
    """Give every open example of a data set one of the forms; others stay as they are."""
    siblings = answers_by_task(examples)
    return [with_form(example, forms, seed, num_options, siblings) for example in examples]


def with_form(
    example: Example,
    forms: Sequence[str],
    seed: int,
    num_options: int = 4,
    siblings: Mapping[str, Sequence[Any]] | None = None,
) -> Example:
    """Give an open example one of the forms, drawn from seed and example.

    Args:
        siblings: task -> answers of the same data set (`answers_by_task`), which wrong answers may be taken from.

    Raises:
        ValueError: an example for which there is no wrong answer.
    """
    if example.form != "open" or set(forms) == {"open"}:
        return example
    rng = generator(seed, example)
    form = forms[int(rng.integers(len(forms)))]
    if form == "open":
        return example
    known = replace(example, meta={**example.meta, "siblings": (siblings or {}).get(example.task, ())})
    return FORMS[form](known, rng, num_options)


def generator(seed: int, example: Example) -> np.random.Generator:
    """Give an example its own generator, the same wherever it stands in a data set."""
    pictures = [hashlib.sha256(p).hexdigest() if isinstance(p, bytes) else p for p in example.images]
    content = repr((example.task, example.question, _plain(example.answer), pictures)).encode()
    words = np.frombuffer(hashlib.sha256(content).digest(), np.uint32)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *words.tolist()])))


def judge(example: Example, rng: np.random.Generator, num_options: int = 4) -> Example:
    """Ask whether an answer is right: yes for one half of all examples; otherwise a wrong one is proposed."""
    true = bool(rng.random() < 0.5)
    value = example.answer if true else _wrong(example, rng, max(1, num_options - 1))[0]
    text = shown(example, value)
    question = f"{example.question}\nProposed answer: {text}. Is it right?"
    return _made(example, "judge", question, true, {text: value}, {"proposed": text})


def choice(example: Example, rng: np.random.Generator, num_options: int = 4) -> Example:
    """List answers under letters in random order; of label sets every label is an option, so several may be right."""
    if example.meta.get("letter") and example.meta.get("options"):  # listed under its question already
        return replace(example, form="choice", answer=frozenset(example.meta["letter"]))
    if not 2 <= num_options <= len(LETTERS):
        raise ValueError(f"num_options {num_options}: choose 2 to {len(LETTERS)}")
    if isinstance(example.answer, frozenset):
        right: list[Any] = [str(label) for label in rng.permutation(sorted(example.answer))[: num_options - 1]]
        wrong: list[Any] = wrong_labels(example, rng, num_options - len(right))
    else:
        right = [example.answer]
        wrong = _wrong(example, rng, num_options - 1)
    if not wrong:
        raise ValueError(_nothing_wrong(example))
    values = [*right, *wrong]
    order = rng.permutation(len(values)).tolist()
    listed = [shown(example, values[i]) for i in order]
    answer = frozenset(LETTERS[place] for place, i in enumerate(order) if i < len(right))
    lines = [f"({letter}) {text}" for letter, text in zip(LETTERS, listed, strict=False)]
    question = "\n".join([example.question, *lines])
    several = isinstance(example.answer, frozenset)
    boxes = {text: values[i] for text, i in zip(listed, order, strict=True)}
    return _made(example, "choice", question, answer, boxes, {"options": listed, "several": several})


def open_form(example: Example, rng: np.random.Generator, num_options: int = 4) -> Example:
    """Leave the question as it is."""
    return example


FORMS: dict[str, Callable[[Example, np.random.Generator, int], Example]] = {
    "judge": judge,
    "choice": choice,
    "open": open_form,
}


def shown(example: Example, value: Any) -> str:
    """Write an answer or a part of it as a question shows it: boxes as [x1, y1, x2, y2] px, sets with commas."""
    if isinstance(value, str):
        return value
    if is_box(value):
        return box_text(value)
    if isinstance(value, frozenset):
        return ", ".join(sorted(value))
    text = get_task(example.task).show(value)
    return text.removeprefix("```json\n").removesuffix("\n```")


def is_box(value: Any) -> bool:
    """Tell whether an answer is a box."""
    return isinstance(value, tuple) and len(value) == 4 and all(isinstance(side, float) for side in value)


def _made(
    example: Example, form: str, question: str, answer: Any, values: Mapping[str, Any], extra: Mapping[str, Any]
) -> Example:
    """Put a new question and answer in place; remember the open ones, and boxes that the prompt must convert."""
    meta = {key: value for key, value in example.meta.items() if key not in ("siblings", "options")}
    meta |= {"open_question": example.question, "open_answer": example.answer, **extra}
    boxes_px = {text: value for text, value in values.items() if is_box(value)}
    for listed in values.values():
        if isinstance(listed, (list, tuple)) and all(isinstance(item, Mapping) for item in listed):
            boxes_px |= {json.dumps([round(side, 1) for side in item["bbox_2d"]]): item["bbox_2d"] for item in listed}
    if boxes_px:
        meta["boxes_px"] = boxes_px
    return replace(example, form=form, question=question, answer=answer, meta=meta)


def _wrong(example: Example, rng: np.random.Generator, n: int) -> list[Any]:
    """Up to n wrong answers that look different from each other and from the right one."""
    right = shown(example, example.answer)
    options = example.meta.get("options") or ()
    n = min(n, len(options) - 1) if options else n
    found: dict[str, Any] = {}
    for value in get_task(example.task).distractors(example, rng, n):
        text = shown(example, value)
        if text != right:
            found.setdefault(text, value)
    if not found:
        raise ValueError(_nothing_wrong(example))
    return list(found.values())[:n]


def _nothing_wrong(example: Example) -> str:
    where = example.meta.get("where", example.question)
    return f"{where}: no wrong answer can be made of {_plain(example.answer)!r}; leave the row in the open form"


def answers_by_task(examples: Iterable[Example]) -> dict[str, tuple[Any, ...]]:
    """Collect the different open answers of a data set per task, in a fixed order."""
    found: dict[str, dict[str, Any]] = {}
    for example in examples:
        if example.form == "open":
            found.setdefault(example.task, {})[repr(_plain(example.answer))] = example.answer
    return {task: tuple(answers[key] for key in sorted(answers)) for task, answers in found.items()}


def _plain(value: Any) -> Any:
    """Sets in a fixed order, so that their text never depends on hashing."""
    return sorted(value) if isinstance(value, frozenset) else value
