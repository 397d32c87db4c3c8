# SPDX-License-Identifier: Apache-2.0
"""Does the model think longer, and does it check itself ("aha"): lengths, self-check phrases, and what they go with.

Read from completions.jsonl.  Correlations are Pearson's r with Fisher's 95 % interval, tanh(atanh(r) +- 1.96 / sqrt(n -
3)); "within groups" first subtracts the mean of a prompt's completions, so that hard questions, which are long and
wrong alike, do not pass for an effect (n is then less by the number of groups, but for one).  Over all completions the
interval is too narrow: those of one prompt are not independent.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .charts import legend, line_chart, number
from .intervals import Z_95
from .run_files import Points, RunFiles

PHRASES = (
    *("wait", "hold on", "hmm", "aha", "on second thought", "actually", "let me check", "let me re-check"),
    *("let me recheck", "let me double-check", "let me verify", "let me look again", "let me reconsider"),
    *("let me rethink", "i made a mistake", "that is not right", "that's not right", "to be sure", "\u7b49\u7b49"),
    *("\u518d\u68c0\u67e5", "\u91cd\u65b0"),
)
"""What counts as checking oneself unless a run's report is told otherwise."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Correlation:
    """Pearson's r over num rows; r is None where one of the two does not vary or there are fewer than 3 rows."""

    r: float | None
    low: float | None
    high: float | None
    num: int


@dataclass(frozen=True)
class PhraseCount:
    """One phrase over all completions."""

    phrase: str
    times: int
    num: int
    """Completions that hold it."""
    reward_with: float | None
    """Mean reward of those; None without any."""
    reward_without: float | None


@dataclass(frozen=True)
class Analysis:
    length: Points
    """(step, mean tokens of a completion)."""
    checks: Points
    """(step, self-check phrases per completion)."""
    share: Points
    """(step, share of completions with at least one)."""
    phrases: Sequence[PhraseCount]
    correlations: Mapping[str, Correlation]
    """"length" and "checks" with the reward, over all completions and "... within groups"."""


def analyse(rows: Sequence[Row], phrases: Sequence[str] = PHRASES) -> Analysis | None:
    """Count and correlate; None when no completion has a length and a reward."""
    rows = [row for row in rows if row.get("num_tokens") is not None and row.get("reward") is not None]
    if not rows:
        return None
    patterns = [_pattern(phrase) for phrase in phrases]
    counts = [[len(pattern.findall(row["completion"])) for pattern in patterns] for row in rows]
    checks = [float(sum(found)) for found in counts]
    lengths = [float(row["num_tokens"]) for row in rows]
    rewards = [float(row["reward"]) for row in rows]
    steps = [row["step"] for row in rows]
    groups = [(row["step"], str(row.get("id")), row.get("prompt")) for row in rows]
    correlations = {}
    for name, values in (("length", lengths), ("checks", checks)):
        correlations[name] = correlation(values, rewards)
        centred = centre(values, groups), centre(rewards, groups)
        correlations[f"{name} within groups"] = correlation(*centred, lost=len(set(groups)))
    return Analysis(
        length=_means(steps, lengths),
        checks=_means(steps, checks),
        share=_means(steps, [float(count > 0) for count in checks]),
        phrases=[_count(p, [found[i] for found in counts], rewards) for i, p in enumerate(phrases)],
        correlations=correlations,
    )


def correlation(x: Sequence[float], y: Sequence[float], lost: int = 1) -> Correlation:
    """Correlate two equally long lists; `lost` is the number of means subtracted before (1 for plain correlation)."""
    n = len(x)
    mean_x, mean_y = math.fsum(x) / n, math.fsum(y) / n
    xx = math.fsum((a - mean_x) ** 2 for a in x)
    yy = math.fsum((b - mean_y) ** 2 for b in y)
    free = n - lost + 1
    if xx < 1e-12 or yy < 1e-12 or free < 3:
        return Correlation(None, None, None, n)
    r = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / math.sqrt(xx * yy)
    r = max(-1.0, min(1.0, r))
    if abs(r) > 1 - 1e-12 or free == 3:
        return Correlation(r, -1.0 if free == 3 else r, 1.0 if free == 3 else r, n)
    half = Z_95 / math.sqrt(free - 3)
    return Correlation(r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half), n)


def centre(values: Sequence[float], groups: Sequence[Any]) -> list[float]:
    """Subtract from each value the mean of its group."""
    members: dict[Any, list[float]] = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        members[group].append(value)
    means = {group: math.fsum(found) / len(found) for group, found in members.items()}
    return [value - means[group] for value, group in zip(values, groups, strict=True)]


def section(run: RunFiles, phrases: Sequence[str] = PHRASES) -> str:
    """The report's part about lengths and self-checks; empty for a run without logged completions."""
    found = analyse(run.completions, phrases)
    if found is None:
        return ""
    charts = (
        ("Tokens of a completion", {"mean": found.length}),
        ("Self-check phrases", {"per completion": found.checks, "share of completions with one": found.share}),
    )
    cards = "".join(
        f'<div class="card"><header><h3>{title}</h3></header>{line_chart(series)}{legend(list(series))}</div>'
        for title, series in charts
    )
    note = (
        '<p class="quiet">Correlations with the reward; "within groups" compares completions of the same prompt only. '
        "They do not tell cause from effect.</p>"
    )
    return f'<div class="cards">{cards}</div>{_correlation_table(found)}{note}{_phrase_table(found)}'


def _pattern(phrase: str) -> re.Pattern:
    """The phrase as whole words, whatever the case; characters of scripts without spaces stand anywhere."""
    words = r"\s+".join(re.escape(word) for word in phrase.split())
    if phrase.isascii():
        words = rf"(?<!\w){words}(?!\w)"
    return re.compile(words, re.IGNORECASE)


def _means(steps: Sequence[int], values: Sequence[float]) -> Points:
    by_step: dict[int, list[float]] = defaultdict(list)
    for step, value in zip(steps, values, strict=True):
        by_step[step].append(value)
    return [(float(step), math.fsum(found) / len(found)) for step, found in sorted(by_step.items())]


def _count(phrase: str, counts: Sequence[int], rewards: Sequence[float]) -> PhraseCount:
    having = [reward for count, reward in zip(counts, rewards, strict=True) if count]
    lacking = [reward for count, reward in zip(counts, rewards, strict=True) if not count]
    means = [math.fsum(found) / len(found) if found else None for found in (having, lacking)]
    return PhraseCount(phrase, sum(counts), len(having), *means)


def _correlation_table(found: Analysis) -> str:
    lines = "".join(
        f'<tr><td>{escape(name)}</td><td class="number">{_shown(c.r)}</td>'
        f'<td class="number">{_interval(c)}</td><td class="number">{c.num}</td></tr>'
        for name, c in found.correlations.items()
    )
    head = '<th>reward and</th><th class="number">r</th><th class="number">95 %</th><th class="number">completions</th>'
    return f"<table><tr>{head}</tr>{lines}</table>"


def _interval(found: Correlation) -> str:
    return _shown(None) if found.low is None else f"{_shown(found.low)} to {_shown(found.high)}"


def _phrase_table(found: Analysis) -> str:
    seen = sorted((count for count in found.phrases if count.times), key=lambda count: -count.times)
    if not seen:
        return f'<p class="quiet">None of the {len(found.phrases)} self-check phrases was written.</p>'
    lines = "".join(
        f'<tr><td>{escape(count.phrase)}</td><td class="number">{count.times}</td><td class="number">{count.num}</td>'
        f'<td class="number">{_shown(count.reward_with)}</td>'
        f'<td class="number">{_shown(count.reward_without)}</td></tr>'
        for count in seen
    )
    names = ("times", "completions", "mean reward with it", "without it")
    head = "<th>phrase</th>" + "".join(f'<th class="number">{name}</th>' for name in names)
    return f"<table><tr>{head}</tr>{lines}</table>"


def _shown(value: float | None) -> str:
    return "&ndash;" if value is None else number(value)
