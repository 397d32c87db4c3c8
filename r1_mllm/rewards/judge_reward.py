# SPDX-License-Identifier: Apache-2.0
"""The reward `judge`: points of a chat model behind an OpenAI-compatible URL, 0 to 100, as 0 to 1.

Shape letter: G completions of a group.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..config import GrpoConfig, RewardConfig
from ..config.judge import JudgeConfig
from ..records import Group
from ..tasks import asked_as
from . import RewardFunction, load_reward
from .judge import ChatClient, Item, Judge, Verdict


class JudgeReward:
    """Asks about many answers side by side; a question without an answer leaves its completion unjudged (NaN)."""

    def __init__(self, config: JudgeConfig, cache: Path | None = None) -> None:
        """Args: cache: file of verdicts, which a resumed run does not ask for again."""
        ChatClient(config).close()  # says now what the service's client lacks
        self.config, self.cache = config, cache
        self._judge: Judge | None = None  # made at the first question: until then the run's folder may move
        self._verdicts: dict[Item, Verdict] = {}

    def ask(self, groups: Sequence[Group]) -> None:
        """Have all answers of these groups judged together; earlier ones are forgotten (the cache keeps them)."""
        if self._judge is None:
            self._judge = Judge(self.config, self.cache)
        items = [item for group in groups for item in _items(group)]
        self._verdicts = dict(zip(items, self._judge.scores(items), strict=True))

    def __call__(self, group: Group, config: RewardConfig) -> np.ndarray:
        """Pay a hundredth of the points: [G] in 0..1, NaN where the judge gave none."""
        items = _items(group)
        if any(item not in self._verdicts for item in items):
            self.ask([group])
        points = [self._verdicts[item].score for item in items]
        return np.array([np.nan if score is None else score / 100.0 for score in points])


def _items(group: Group) -> list[Item]:
    example = group.example
    reference = asked_as(example).show(example.answer)
    return [Item(example.question, reference, done.text, example.images) for done in group.completions]


def load_rewards(config: GrpoConfig) -> dict[str, RewardFunction]:
    """Find a run's rewards by name; a judge's verdicts are kept in its output folder, a file per rank."""
    cache = Path(config.training.output_dir) / f"judge_{os.environ.get('PADDLE_TRAINER_ID', '0')}.jsonl"
    return {
        name: JudgeReward(config.judge, cache) if name == "judge" else load_reward(name, config.reward)
        for name in config.reward.reward_funcs
    }
