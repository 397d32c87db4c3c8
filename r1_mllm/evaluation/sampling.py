# SPDX-License-Identifier: Apache-2.0
"""Several answers per question, graded and kept: what pass@k counts and rejection fine-tuning chooses from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import rewards
from ..config import RewardConfig
from ..records import Example, Group
from ..tasks import asked_as
from .evaluate import EvalSettings, chat, encode_prompt, plain, progress_bar, result_row, write_results
from .partial import finished_with
from .shards import SharedRows, Team

SAMPLE_KEYS = ("model_output", "extracted_answer", "correct", "score", "decided_by", "finished")
"""Keys of a result row that differ from answer to answer."""


@dataclass(frozen=True)
class Sampling:
    """What is sampled of each question, and what is done with it."""

    asked: EvalSettings
    """Its seed fixes every answer together with the question's block and place in it."""
    num: int
    """Answers per question."""
    max_prompt_length: int | None = None
    """Tokens; a longer prompt gets no answer and says so."""
    funcs: dict[str, rewards.RewardFunction] | None = None
    """Rewards to pay besides the task's grade."""
    reward_config: RewardConfig = field(default_factory=RewardConfig)


def collect(
    path: Path,
    key: str,
    examples: Sequence[Example],
    team: Team,
    sampling: Sampling,
    load: Callable[[], Any],
) -> list[dict[str, Any]] | None:
    """Sample what is missing of a file of samples; give its rows, or None to processes other than the first.

    Args:
        path: the finished file, {"fingerprint", "results"}; unfinished rows stand beside it.
        load: gives engine and processor; called only if something is missing.
    """
    done = finished_with(path, key)
    if done is not None:
        print(f"{path} has these samples already")
        return done["results"] if team.rank == 0 else None
    shared = SharedRows(path, key, len(examples), sampling.asked.batch_size, team)
    if shared.known:
        print(f"{len(shared.known)} of {len(examples)} questions are sampled already; going on from there")
    blocks = shared.missing(whole_blocks=True)
    if blocks:
        loaded = load()
        with progress_bar(sum(map(len, blocks)), True, "question") as bar:
            for block in blocks:
                shared.add(
                    block, sample(loaded.engine, loaded.processor, [examples[i] for i in block], block[0], sampling)
                )
                bar.update(len(block))
    if team.rank != 0:
        return None
    rows = shared.gather()
    write_results(path, {"fingerprint": key}, rows)
    shared.remove()
    return rows


def sample(
    engine: Any, processor: Any, examples: Sequence[Example], first: int, sampling: Sampling
) -> list[dict[str, Any]]:
    """Sample and grade the answers to one block of questions.

    Args:
        first: number of the block's first example.

    Returns:
        One row per example: id, where, task, form, question, ground_truth, image, sizes, prompt, `messages` (those the
        model read) and `samples`, each with `SAMPLE_KEYS`, num_tokens, and with rewards also `reward` and `parts`.
        A prompt that is too long has no samples and `skipped` instead.
    """
    prompts = [encode_prompt(processor, example, sampling.asked) for example in examples]
    limit = sampling.max_prompt_length
    fitting = [i for i, prompt in enumerate(prompts) if limit is None or len(prompt.ids) <= limit]
    answers = {}
    if fitting:
        seed = int(np.random.SeedSequence([sampling.asked.seed, first]).generate_state(1)[0])
        told = {"greedy": False, "max_new_tokens": sampling.asked.max_new_tokens}
        found = engine.generate([prompts[i] for i in fitting], sampling.num, seed=seed, **told)
        answers = dict(zip(fitting, found, strict=True))
    rows = []
    for i, (example, prompt) in enumerate(zip(examples, prompts, strict=True)):
        group = Group(example, prompt, answers.get(i, []))
        row = _row(group, sampling)
        row["messages"] = chat(processor, example, sampling.asked)
        if i not in answers:
            row["skipped"] = f"the prompt has {len(prompt.ids)} tokens, above {limit}"
        rows.append(row)
    return rows


def _row(group: Group, sampling: Sampling) -> dict[str, Any]:
    example, prompt, task = group.example, group.prompt, asked_as(group.example)
    method, config = sampling.asked.method, sampling.reward_config
    group.grades = [task.grade(done.text, example, prompt.views, config, method) for done in group.completions]
    graded = [result_row(example, prompt, *pair) for pair in zip(group.completions, group.grades, strict=True)]
    samples = [{name: row[name] for name in SAMPLE_KEYS} for row in graded]
    for entry, done in zip(samples, group.completions, strict=True):
        entry["num_tokens"] = len(done.ids)
    if sampling.funcs and samples:
        rewards.score(group, sampling.funcs, config)
        for i, entry in enumerate(samples):
            entry["reward"] = _number(group.rewards[i])
            entry["parts"] = {name: _number(part[i]) for name, part in group.parts.items()}
    about = {
        "id": plain(example.meta.get("id", example.meta.get("where"))),
        "where": example.meta.get("where"),
        "task": example.task,
        "form": example.form,
        "question": example.question,
        "ground_truth": plain(example.answer),
    }
    if graded:
        about |= {name: graded[0][name] for name in ("image", "prompt", "image_size", "input_size")}
    return {**about, "samples": samples}


def _number(value: float) -> float | None:
    """A reward as JSON has it; None where none applies."""
    return None if np.isnan(value) else float(value)
