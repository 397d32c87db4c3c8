# SPDX-License-Identifier: Apache-2.0
"""Settings of what completions are paid for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RewardConfig:
    reward_funcs: tuple[str, ...] = ("accuracy", "format")
    """Names of rewards/__init__.py, judge (a chat model, see judge_url) or path.py:function (reward_files.py there)."""
    reward_weights: tuple[float, ...] | None = None
    """One per reward; None: all 1."""
    soft_iou: bool = True
    """rec: pay the IoU itself; False: 1 above iou_threshold, else 0."""
    iou_threshold: float = 0.5
    """rec: overlap (IoU) above which a box is right."""
    detection_reward: Literal["map", "ap50", "map_length", "weighted_sum"] | None = None
    """open_detection: COCO mAP or AP50 of the answer, mAP times right/written boxes (at most 1), or overlap and
    completeness; None: what the row's accu_reward_method says, else map_length."""
    jaccard: bool = False
    """choice with several right letters: pay the share of common letters; False: only for exactly the right ones."""
    verify_timeout: float = 2.0
    """Seconds one math comparison may take."""
    boxed_required: bool = True
    """math_boxed and its scorers: only a box is an answer; False also takes answer tags, or the last line."""
    format_weight: float = 0.1
    """geo3k: share of the score that the form earns, the rest is for the answer."""
    length_limit: int | None = None
    """Tokens at which the rewards `length` and `overlong` reach their end; None: max_completion_length."""
    overlong_buffer: int = 64
    """Tokens before length_limit over which `overlong` falls from 0 to -1."""
    token_bonus: float = 0.001
    """Paid by the reward `token_bonus` for each token of a finished completion, up to 0.5 in all."""
    reward_isolation: Literal["process", "none"] = "process"
    """Where functions from path.py:function run: in a process that can be killed, or in this one, which also gives them
    the prompt's arrays."""
    reward_timeout: float = 10.0
    """Seconds such a function may take for one group; its first call may take 120."""
    reward_memory_mb: int = 2048
    """Address space of its process, MB; 0: no limit."""
    reward_error: Literal["abstain", "zero"] = "abstain"
    """What a completion earns from such a function when it raises, hangs or dies: nothing either way, or 0."""
    repetition_ngram: int = 4
    """Words of the runs whose repetition the reward `repetition` counts."""
