# SPDX-License-Identifier: Apache-2.0
"""Does the reward pay what it should: each gold answer, written as the task asks for it, must score; another row's
gold answer must not.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import rewards
from ..config import RewardConfig
from ..records import Completion, Example, Group, Prompt, View
from ..tasks import asked_as

MOST_ASKED = 200
"""Examples, spread evenly over the data set."""
FULL_MARK = 0.9
"""What a gold answer must score: boxes are written with a tenth of a px, so that the IoU of a small one is not 1."""
NUM_LISTED = 5

Views = Callable[[Example], Sequence[View]]


@dataclass
class SelfTest:
    """What gold answers and foreign ones earned."""

    num_gold: int = 0
    refused: list[str] = field(default_factory=list)
    """Gold answers that did not score."""
    num_foreign: int = 0
    accepted: list[str] = field(default_factory=list)
    """Other rows' answers that scored."""
    parts: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Reward -> (for the gold answer, for another row's)."""

    @property
    def ok(self) -> bool:
        """Whether every gold answer scored, and no more than half of the foreign ones did."""
        return self.num_gold > 0 and not self.refused and 2 * len(self.accepted) <= self.num_foreign


def written(example: Example, value: Any, views: Sequence[View] = ()) -> str:
    """Write an answer as the task asks for it, boxes in the units of `views`."""
    task = asked_as(example)
    shown = task.show(_as_seen(value, views))
    tagged = f"<think>checked</think><answer>{shown}</answer>"
    return tagged if task.check_format(tagged, example)[0] else f"<think>checked</think>{shown}"


def _as_seen(value: Any, views: Sequence[View]) -> Any:
    """Turn boxes in px of the original picture into those the model writes."""
    if not views:
        return value
    if _is_box(value):
        return views[0].from_original(value)
    if isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
        return [{**item, "bbox_2d": views[0].from_original(item["bbox_2d"])} for item in value]
    return value


def _is_box(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 4 and all(isinstance(side, int | float) for side in value)


def run(
    examples: Sequence[Example],
    config: RewardConfig,
    funcs: Mapping[str, rewards.RewardFunction],
    views: Views | None = None,
) -> SelfTest:
    """Score gold and foreign answers with the rewards of a run.

    Args:
        config: with its length_limit.  views: how an example's pictures will be shown; None: boxes are px of the file.
    """
    result = SelfTest(parts={name: [] for name in funcs})
    stride = max(1, -(-len(examples) // MOST_ASKED))
    for i in range(0, len(examples), stride):
        example = examples[i]
        seen = tuple(views(example)) if views else ()
        foreign = _foreign(examples, i)
        values = [example.answer] if foreign is None else [example.answer, foreign]
        group = _scored(example, [written(example, value, seen) for value in values], seen, config, funcs)
        _count(result, group, foreign)
    return result


def _foreign(examples: Sequence[Example], i: int) -> Any:
    """Find the next example's answer that is another one and belongs to the same kind of question."""
    mine = examples[i]
    for step in range(1, min(len(examples), 50)):
        other = examples[(i + step) % len(examples)]
        if (other.task, other.form) == (mine.task, mine.form) and other.answer != mine.answer:
            return other.answer
    return None


def _scored(example: Example, texts: Sequence[str], views, config: RewardConfig, funcs) -> Group:
    ids = [np.zeros([max(1, len(text) // 4)], np.int64) for text in texts]
    answers = [
        Completion(one, np.zeros([len(one)], np.float32), text, True) for one, text in zip(ids, texts, strict=True)
    ]
    prompt = Prompt(np.zeros([1], np.int64), np.zeros([3, 1], np.int64), 1, views=views)
    group = Group(example, prompt, answers)
    rewards.score(group, funcs, config)
    return group


def _count(result: SelfTest, group: Group, foreign: Any) -> None:
    example, where = group.example, group.example.meta.get("where", group.example.question)
    gold, *other = group.grades
    result.num_gold += 1
    if not (gold.correct and gold.score >= FULL_MARK):
        why = f"score {gold.score:.2f}, decided by {gold.decided_by}"
        result.refused.append(f"{where}: gold answer {example.answer!r} is not accepted ({why})")
    for name, part in group.parts.items():
        result.parts[name].append((float(part[0]), float(part[1]) if other else math.nan))
    if not other:
        return
    result.num_foreign += 1
    if other[0].correct:
        result.accepted.append(f"{where}: {foreign!r} is accepted, too (gold {example.answer!r})")


def describe(found: SelfTest) -> list[str]:
    """Write a self-test as lines of text."""
    num_refused, num_accepted = len(found.refused), len(found.accepted)
    lines = [
        f"{'' if found.ok else 'BAD: '}gold answers: {found.num_gold - num_refused} of {found.num_gold} score; "
        f"another row's gold answer: {num_accepted} of {found.num_foreign} score"
    ]
    lines += [f"    {line}" for line in [*found.refused[:NUM_LISTED], *found.accepted[:NUM_LISTED]]]
    if found.num_gold and not found.num_foreign:
        lines.append("    every row has the same answer: a model that always gives it would be right")
    for name, pairs in found.parts.items():
        means = [_mean(values) for values in zip(*pairs, strict=True)]
        if not means or means[0] is None:
            lines.append(f"  reward {name}: judges none of these")
            continue
        other = "" if means[1] is None else f", another row's {means[1]:.3f}"
        lines.append(f"  reward {name}: gold {means[0]:.3f}{other} (means)")
    return lines


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None


def with_limit(config: RewardConfig, limit: int) -> RewardConfig:
    """Fill in length_limit where it is open."""
    return config if config.length_limit is not None else dataclasses.replace(config, length_limit=limit)
