# SPDX-License-Identifier: Apache-2.0
"""Answers of a model to a list of examples, graded one by one, and what they add up to."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..config import EvalConfig, RewardConfig
from ..distributed.heartbeat import beat
from ..records import Completion, Example, Grade, Prompt
from ..report.intervals import wilson
from ..tasks import asked_as


@dataclass(frozen=True)
class EvalSettings:
    """How the questions are put and answered."""

    method: str = "r1"
    """r1 or baseline, the task's two ways to ask."""
    batch_size: int = 32
    max_new_tokens: int = 256
    greedy: bool = True
    seed: int = 42
    templates: Mapping[str, Any] | None = None
    """Prompts that replace the task's own."""
    system_prompt: str | None = None

    @classmethod
    def of(cls, config: EvalConfig, templates: Mapping[str, Any] | None) -> EvalSettings:
        """Take an evaluation's settings from its command line."""
        return cls(
            method=config.method,
            batch_size=config.batch_size,
            max_new_tokens=config.max_new_tokens,
            seed=config.seed,
            templates=templates,
            system_prompt=config.system_prompt,
        )


@dataclass(frozen=True)
class EvalResult:
    """What a list of graded rows adds up to."""

    accuracy: float
    """Percent of rows with `correct` 1."""
    interval: tuple[float, float]
    """Percent: the Wilson 95 % interval of the accuracy."""
    num: int
    num_correct: int
    mean_score: float
    """Mean of the rows' score, 0..1 (the mean IoU for rec)."""
    decided_by: Mapping[str, int]
    """Rule -> number of rows it decided."""
    rows: Sequence[Mapping[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """The content of a results file; `accuracy` and `results` are the keys earlier systems wrote."""
        return {
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "num": self.num,
            "num_correct": self.num_correct,
            "mean_score": self.mean_score,
            "decided_by": dict(self.decided_by),
            "results": list(self.rows),
        }

    def write(self, path: str | Path, **extra: Any) -> None:
        """Write the results file in one rename, so that a reader never sees half of it; `extra` are further keys."""
        content = self.as_json()
        rows = content.pop("results")
        write_results(Path(path), {**content, **extra}, rows)


def write_results(path: Path, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a JSON file of `about` and then `results`, in one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(path.name + ".tmp")
    with staged.open("w", encoding="utf-8") as file:
        json.dump({**about, "results": list(rows)}, file, indent=2, ensure_ascii=False)
        file.write("\n")
    os.replace(staged, path)


def summarise(rows: Sequence[Mapping[str, Any]]) -> EvalResult:
    """Accuracy in percent, its interval and the counts of how rows were decided; at least one row."""
    if not rows:
        raise ValueError("there is no row to evaluate; check the data set and --sample_num")
    num, num_correct = len(rows), sum(row["correct"] for row in rows)
    low, high = wilson(num_correct, num)
    return EvalResult(
        accuracy=100.0 * num_correct / num,
        interval=(100.0 * low, 100.0 * high),
        num=num,
        num_correct=num_correct,
        mean_score=sum(row["score"] for row in rows) / num,
        decided_by=dict(sorted(Counter(row["decided_by"] for row in rows).items())),
        rows=list(rows),
    )


def evaluate(
    engine: Any,
    processor: Any,
    examples: Sequence[Example],
    *,
    reward_config: RewardConfig | None = None,
    on_rows: Callable[[list[dict[str, Any]]], None] | None = None,
    progress: bool = False,
    **settings: Any,
) -> EvalResult:
    """Answer and grade every example, a batch at a time, in order.

    Args:
        engine: has `generate(prompts, n, seed, greedy, max_new_tokens) -> list[list[Completion]]`.
        processor: has `encode(messages, images) -> Prompt` and `box_units`.
        on_rows: called with the new rows after every batch.
        settings: fields of `EvalSettings` (method, batch_size, max_new_tokens, greedy, seed ...).
    """
    asked = EvalSettings(**settings)
    blocks = [range(at, min(at + asked.batch_size, len(examples))) for at in range(0, len(examples), asked.batch_size)]
    rows: list[dict[str, Any]] = []

    def keep(block: Sequence[int], new_rows: list[dict[str, Any]]) -> None:
        rows.extend(new_rows)
        if on_rows is not None:
            on_rows(new_rows)

    answer_blocks(engine, processor, examples, blocks, asked, keep, reward_config, progress)
    return summarise(rows)


def answer_blocks(
    engine: Any,
    processor: Any,
    examples: Sequence[Example],
    blocks: Sequence[Sequence[int]],
    asked: EvalSettings,
    on_rows: Callable[[Sequence[int], list[dict[str, Any]]], None],
    reward_config: RewardConfig | None = None,
    progress: bool = False,
) -> None:
    """Answer and grade some of the examples, those of a block together; `on_rows` gets each block and its rows."""
    num = correct = 0
    with progress_bar(sum(map(len, blocks)), progress) as bar:
        for block in blocks:
            beat("evaluation")
            batch = [examples[i] for i in block]
            rows = _answer(engine, processor, batch, reward_config or RewardConfig(), asked)
            on_rows(block, rows)
            num, correct = num + len(rows), correct + sum(row["correct"] for row in rows)
            bar.update(len(block))
            bar.set_postfix_str(f"accuracy {100.0 * correct / num:.1f}%", refresh=False)


def progress_bar(total: int, shown: bool, unit: str = "row") -> tqdm:
    """A bar for people; where nobody watches, a line every half a minute is enough for a log file."""
    return tqdm(total=total, disable=not shown, mininterval=0.2 if sys.stderr.isatty() else 30.0, unit=unit)


def _answer(
    engine: Any, processor: Any, batch: Sequence[Example], reward_config: RewardConfig, asked: EvalSettings
) -> list[dict[str, Any]]:
    prompts = [encode_prompt(processor, example, asked) for example in batch]
    answers = engine.generate(prompts, 1, seed=asked.seed, greedy=asked.greedy, max_new_tokens=asked.max_new_tokens)
    assert len(answers) == len(batch), f"the engine answered {len(answers)} of {len(batch)} prompts"
    rows = []
    for example, prompt, (completion,) in zip(batch, prompts, answers, strict=True):
        task = asked_as(example)
        grade = task.grade(completion.text, example, prompt.views, reward_config, asked.method)
        rows.append(result_row(example, prompt, completion, grade))
    return rows


def chat(processor: Any, example: Example, asked: EvalSettings) -> list[dict[str, Any]]:
    """Lay an example out as messages."""
    return asked_as(example).messages(
        example,
        method=asked.method,
        templates=asked.templates,
        system_prompt=asked.system_prompt,
        view_units=processor.box_units,
        views=processor.views(example.images) if "boxes_px" in example.meta else (),
    )


def encode_prompt(processor: Any, example: Example, asked: EvalSettings) -> Prompt:
    """Turn an example into what the model reads; ValueError names the row."""
    try:
        return processor.encode(chat(processor, example, asked), example.images)
    except ValueError as error:
        raise ValueError(f"{example.meta.get('where', example.question)}: {error}") from error


def result_row(example: Example, prompt: Prompt, completion: Completion, grade: Grade) -> dict[str, Any]:
    """One line of a results file: what was asked, answered and decided of one example.

    Boxes in `ground_truth` and `extracted_answer` are in px of the original picture; `image`, `image_size` (px of the
    file) and `input_size` (px as seen) are lists when the question has several pictures.
    """
    return {
        "id": plain(example.meta.get("id", example.meta.get("where"))),
        "image": _one_or_list([picture if isinstance(picture, str) else None for picture in example.images]),
        "prompt": prompt.text,
        "question": example.question,
        "ground_truth": plain(example.answer),
        "model_output": completion.text,
        "extracted_answer": plain(grade.extracted),
        "correct": int(grade.correct),
        "score": float(grade.score),
        "decided_by": grade.decided_by,
        "finished": completion.finished,
        "image_size": _one_or_list([list(view.original_wh) for view in prompt.views]),
        "input_size": _one_or_list([list(view.seen_wh) for view in prompt.views]),
    }


def plain(value: Any) -> Any:
    """The value in types JSON knows: tuples and sets become lists, what JSON cannot hold becomes its text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, Integral):  # numpy's
        return int(value)
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return str(value)


def _one_or_list(values: list[Any]) -> Any:
    """None for no value, the value itself for one."""
    return None if not values else values[0] if len(values) == 1 else values
