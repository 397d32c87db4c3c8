# SPDX-License-Identifier: Apache-2.0
"""Grading alone: answers per second, by how much of the grading code an answer needs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..answers.worker import verifier
from ..config import RewardConfig
from ..records import Example, View
from ..tasks import get_task
from . import machine
from .settings import RewardsBench

SHOWN = View((640, 480), (644, 476), "seen_px")


def measure(config: RewardsBench) -> dict[str, Any]:
    """Grade answers, half of them right, none twice in a row; nothing but the grading is timed."""
    rng = np.random.default_rng(config.seed)
    verifier(RewardConfig().verify_timeout).verify("1", "2 - 1")  # the worker's start is not an answer's cost
    kinds = {"boxes": _boxes(rng, config.num), "numbers": _numbers(rng, config.num)}
    kinds |= {"math": _math(rng, config.num), "symbolic": _symbolic(rng, max(config.num // 20, 1))}
    result: dict[str, Any] = {"engine": "r1-mllm", "machine": machine.describe()}
    for kind, pairs in kinds.items():
        start = time.perf_counter()
        right = sum(get_task(example.task).grade(text, example, views).correct for text, example, views in pairs)
        seconds = time.perf_counter() - start
        result |= {f"{kind}_per_s": round(len(pairs) / seconds), f"{kind}_num": len(pairs), f"{kind}_right": right}
    return result


def _answer(value: object) -> str:
    return f"<think> look at the picture and reason </think><answer>{value}</answer>"


def _boxes(rng: np.random.Generator, num: int) -> list[tuple]:
    corners = rng.uniform(0, 200, [num, 2])
    golds = np.concatenate([corners, corners + rng.uniform(50, 200, [num, 2])], axis=1).round(1)
    pairs = []
    for i, gold in enumerate(golds.tolist()):
        box = [round(side + 200 * (i % 2), 1) for side in gold]
        pairs.append((_answer(box), Example("rec", "the cup", tuple(gold)), (SHOWN,)))
    return pairs


def _numbers(rng: np.random.Generator, num: int) -> list[tuple]:
    golds = rng.integers(0, 40, num).tolist()
    return [
        (_answer(f"there are {gold + i % 2} of them"), Example("counting", "how many?", gold), ())
        for i, gold in enumerate(golds)
    ]


def _math(rng: np.random.Generator, num: int) -> list[tuple]:
    """Write a third each: the gold's text, roots taken apart, fractions as decimals; what geometry questions hold."""
    pairs = []
    for i, (a, b) in enumerate(rng.integers(2, 30, [num, 2]).tolist()):
        forms = ((str(a), str(a)), (rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}"), (rf"\frac{{{a}}}{{8}}", f"{a / 8}"))
        gold, written = forms[i % 3]
        written = written if i % 2 else f"3{written}"
        pairs.append((_answer(rf"\boxed{{{written}}}"), Example("geometry", "what is x?", gold), ()))
    return pairs


def _symbolic(rng: np.random.Generator, num: int) -> list[tuple]:
    """Write fractions with a letter in another form than the gold answer has: only math-verify can tell."""
    pairs = []
    for i, (a, b, c) in enumerate(rng.integers(2, 97, [num, 3]).tolist()):
        written = rf"\frac{{{a} x + {a * b + i % 2}}}{{{c}}}"
        gold = rf"\frac{{{a}(x+{b})}}{{{c}}}"
        pairs.append((_answer(rf"\boxed{{{written}}}"), Example("geometry", "what is y?", gold), ()))
    return pairs
