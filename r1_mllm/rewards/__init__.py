# SPDX-License-Identifier: Apache-2.0
"""What completions earn: one function per reward, a group in, [G] float64 out.

Shape letter: G completions of a group.  A reward is NaN for a completion it cannot judge, and then the others alone
make its total.  A completion that no reward judges has no total and is left out of the group's mean.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..answers import boxes, detections, tags
from ..config import RewardConfig
from ..records import Group
from ..tasks import asked_as, get_task
from .user_rewards import load_user_reward

RewardFunction = Callable[[Group, RewardConfig], np.ndarray]

TOKEN_BONUS_CAP = 0.5


def grade_all(group: Group, config: RewardConfig) -> None:
    """Fill `group.grades`, unless it is filled, with the task's verdict on every completion."""
    if len(group.grades) != len(group.completions):
        task = asked_as(group.example)
        views = group.prompt.views
        group.grades = [task.grade(done.text, group.example, views, config) for done in group.completions]


def accuracy(group: Group, config: RewardConfig) -> np.ndarray:
    """Pay the task's own score (IoU, right or wrong): [G] in 0..1."""
    grade_all(group, config)
    return np.array([grade.score for grade in group.grades], dtype=np.float64)


def ternary(group: Group, config: RewardConfig) -> np.ndarray:
    """Pay 1 for a right answer, 0 for a wrong one, -1 where there is none: [G]."""
    grade_all(group, config)
    return np.array([-1.0 if g.decided_by == "no_answer" else float(g.correct) for g in group.grades])


def well_formed(group: Group, config: RewardConfig) -> np.ndarray:
    """Pay 1 for the form the task asks for; a completion cut at the length limit has none: [G] of 0 or 1."""
    task = asked_as(group.example)
    texts = [(done.text, done.finished) for done in group.completions]
    return np.array([float(finished and task.check_format(text, group.example)[0]) for text, finished in texts])


def json_box(group: Group, config: RewardConfig) -> np.ndarray:
    """Pay 1 for an answer part that is JSON with a box in it: [G] of 0 or 1; applies to open questions of rec only."""
    if group.example.task != "rec" or group.example.form != "open":
        return np.full(len(group.completions), np.nan)
    answers = [tags.split(done.text).answer for done in group.completions]
    return np.array([float(answer is not None and boxes.is_json_box(answer)) for answer in answers])


def length(group: Group, config: RewardConfig) -> np.ndarray:
    """Pay right answers for being short, 1 down to 0.5, and charge wrong ones for it, -0.5 up to 0: [G] on a cosine."""
    grade_all(group, config)
    limit = _length_limit(config)
    shares = [min(len(done.ids) / limit, 1.0) for done in group.completions]
    falls = [(1 + math.cos(math.pi * share)) / 2 for share in shares]  # 1 for an empty completion, 0 at the limit
    return np.array([0.5 + 0.5 * f if g.correct else -0.5 * f for f, g in zip(falls, group.grades, strict=True)])


def token_bonus(group: Group, config: RewardConfig) -> np.ndarray:
    """Pay for thinking long (VisualThinker-R1-Zero's length reward), token_bonus per token: [G] in 0..TOKEN_BONUS_CAP.

    Unlike the original it is capped, so that length never outweighs a right answer, and a completion cut at the length
    limit earns nothing, so that running on does not pay.
    """
    earned = [config.token_bonus * len(done.ids) * done.finished for done in group.completions]
    return np.minimum(np.array(earned, dtype=np.float64), TOKEN_BONUS_CAP)


def boxed_scorer(name: str) -> RewardFunction:
    """Make the reward that scores every completion as the task `name` does: [G], NaN for tasks without mathematics."""

    def pay(group: Group, config: RewardConfig) -> np.ndarray:
        if not isinstance(group.example.answer, str):
            return np.full(len(group.completions), np.nan)
        task = get_task(name)
        return np.array([task.grade(done.text, group.example, config=config).score for done in group.completions])

    return pay


def repetition(group: Group, config: RewardConfig) -> np.ndarray:
    """Charge the share of word runs, or of a list's boxes, that stood in the completion before: [G] in -1..0."""
    return np.array([-_repetition(done.text, group.example.task, config) for done in group.completions])


def _repetition(text: str, task: str, config: RewardConfig) -> float:
    listed = detections.parse(tags.split(text).answer or "") if task == "open_detection" else None
    return _repeated_share(listed, 1) if listed else _repeated_share(text.lower().split(), config.repetition_ngram)


def overlong(group: Group, config: RewardConfig) -> np.ndarray:
    """Charge length near the limit: 0 until overlong_buffer tokens before it, then linearly to -1 at it: [G]."""
    start = _length_limit(config) - config.overlong_buffer
    over = np.array([len(done.ids) - start for done in group.completions], dtype=np.float64)
    return -np.clip(over / max(config.overlong_buffer, 1), 0.0, 1.0)


def _length_limit(config: RewardConfig) -> int:
    if config.length_limit is None:
        raise ValueError("the rewards length and overlong need a limit: set length_limit")
    return config.length_limit


REWARDS: dict[str, RewardFunction] = {
    "accuracy": accuracy,
    "format": well_formed,
    "format_json": json_box,
    "ternary": ternary,
    "length": length,
    "token_bonus": token_bonus,
    "repetition": repetition,
    "overlong": overlong,
    **{name: boxed_scorer(name) for name in ("boxed", "math_verify_for_dapo", "geo3k")},
}


def load_reward(name: str, config: RewardConfig | None = None) -> RewardFunction:
    """Find a reward by its name in `REWARDS`, or start a worker for `path.py:function` (user_rewards.py)."""
    if name in REWARDS:
        return REWARDS[name]
    path, _, function = name.rpartition(":")
    if not path.endswith(".py"):
        near = difflib.get_close_matches(name, REWARDS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        if name == "judge":
            raise ValueError("the reward judge asks a service, which only training does")
        raise ValueError(f"unknown reward {name!r}{hint} (known: {', '.join(REWARDS)}, or path.py:function)")
    return load_user_reward(path, function, name, config or RewardConfig())


def score(
    group: Group, funcs: Sequence[RewardFunction] | Mapping[str, RewardFunction], config: RewardConfig
) -> Counter[str]:
    """Fill `group.grades`, `group.parts` and `group.rewards`: the weighted sum of those that judged a completion,
    NaN for a completion that none did.

    Args:
        funcs: by name, or in the order of `config.reward_funcs`.

    Returns:
        Counts worth logging: "<reward>/not_scored" completions, "decided_by/<rule>" grades.
    """
    named = dict(funcs) if isinstance(funcs, Mapping) else dict(zip(config.reward_funcs, funcs, strict=True))
    weights = config.reward_weights or (1.0,) * len(named)
    if len(weights) != len(named):
        raise ValueError(f"{len(weights)} reward_weights for {len(named)} reward_funcs; give one weight per reward")
    num = len(group.completions)
    grade_all(group, config)
    counts = Counter(f"decided_by/{g.decided_by}" for g in group.grades)
    for name, function in named.items():
        part = group.parts[name] = _checked(name, function(group, config), num)
        counts[f"{name}/not_scored"] = int(np.isnan(part).sum())
    group.rewards = weighted_sum(np.stack([group.parts[name] for name in named], axis=-1), np.array(weights))
    return +counts


def weighted_sum(parts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Add up the rewards that apply: parts [..., G, K], weights [K] -> [..., G], NaN where none applies."""
    total = np.nansum(parts * weights, axis=-1)
    return np.where(np.isnan(parts).all(axis=-1), np.nan, total)


def _checked(name: str, values: Sequence[float | None] | np.ndarray, num: int) -> np.ndarray:
    """Turn a reward's result into [G] float64; None and non-finite numbers become NaN."""
    if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray)):
        raise ValueError(f"reward {name!r} returned {type(values).__name__}; it must return {num} numbers")
    if len(values) != num:
        raise ValueError(f"reward {name!r} returned {len(values)} values for {num} completions")
    try:
        part = np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"reward {name!r} returned {list(values)!r}; it must return numbers or None") from error
    return np.where(np.isfinite(part), part, np.nan)


def _repeated_share(words: Sequence, n: int) -> float:
    num_runs = len(words) - n + 1
    if num_runs < 1:
        return 0.0
    return 1.0 - len({tuple(words[i : i + n]) for i in range(num_runs)}) / num_runs
