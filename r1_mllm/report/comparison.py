# SPDX-License-Identifier: Apache-2.0
"""Before and after training: the accuracy table and sample rows with their boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .charts import number
from .intervals import paired_difference, wilson
from .pictures import is_box, picture
from .run_files import RunFiles

Row = Mapping[str, Any]
NUM_SAMPLES = 8
"""Rows spread evenly over the evaluation set."""
NUM_CHANGED = 4
"""Further rows of each kind: newly right, newly wrong."""


def paired(before: Sequence[Row], after: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Rows of the same id in both evaluations, in the order of `after`."""
    earlier = {str(row.get("id")): row for row in before}
    return [(earlier[str(row.get("id"))], row) for row in after if str(row.get("id")) in earlier]


def accuracy_table(run: RunFiles) -> str:
    """Accuracies with Wilson intervals, and their paired difference if both evaluations are there."""
    lines = [
        _accuracy_line(name, content["results"])
        for name, content in (("before training", run.before), ("after training", run.after))
        if content
    ]
    note = ""
    if run.before and run.after:
        pairs = paired(run.before["results"], run.after["results"])
        if pairs:
            lines.append(_difference_line(pairs))
            num_up = sum(new["correct"] > old["correct"] for old, new in pairs)
            num_down = sum(new["correct"] < old["correct"] for old, new in pairs)
            note = (
                f'<p class="quiet">{len(pairs)} questions were asked both times: {num_up} became right, {num_down} '
                "became wrong. The interval of the difference is paired.</p>"
            )
    head = (
        '<tr><th></th><th class="number">accuracy</th><th class="number">95 % interval</th>'
        '<th class="number">right</th><th class="number">mean score</th><th>decided by</th></tr>'
    )
    return f"<table>{head}{''.join(lines)}</table>{note}"


def _accuracy_line(name: str, rows: Sequence[Row]) -> str:
    num, num_correct = len(rows), sum(row["correct"] for row in rows)
    low, high = wilson(num_correct, num)
    rules: dict[str, int] = {}
    for row in rows:
        rules[row.get("decided_by", "")] = rules.get(row.get("decided_by", ""), 0) + 1
    counts = ", ".join(f"{escape(rule)} {count}" for rule, count in sorted(rules.items(), key=lambda item: -item[1]))
    score = sum(float(row.get("score", row["correct"])) for row in rows) / num
    return (
        f'<tr><td>{name}</td><td class="number"><b>{100 * num_correct / num:.1f} %</b></td>'
        f'<td class="number">{100 * low:.1f} to {100 * high:.1f}</td><td class="number">{num_correct} / {num}</td>'
        f'<td class="number">{score:.3f}</td><td class="quiet">{counts}</td></tr>'
    )


def _difference_line(pairs: Sequence[tuple[Row, Row]]) -> str:
    old, new = [row["correct"] for row, _ in pairs], [row["correct"] for _, row in pairs]
    difference, low, high = paired_difference(old, new)
    verdict = "zero lies inside" if low <= 0.0 <= high else "zero lies outside"
    interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
    if old == new:  # its normal interval has no width, which would say too much
        verdict, interval = "no verdict changed", "&ndash;"
    return (
        f'<tr><td>difference</td><td class="number"><b>{100 * difference:+.1f} points</b></td>'
        f'<td class="number">{interval}</td><td></td><td></td>'
        f'<td class="quiet">{verdict}</td></tr>'
    )


def gallery(run: RunFiles) -> str:
    """Sample questions: some spread evenly over the set, then some whose verdict changed; nothing is hand-picked."""
    content = run.after or run.before
    if not content:
        return ""
    rows = content["results"]
    partner = {}
    if run.before and run.after:
        partner = {id(new): old for old, new in paired(run.before["results"], rows)}
    stride = max(1, len(rows) // NUM_SAMPLES)
    parts = [_samples("Spread evenly over the set", rows[::stride][:NUM_SAMPLES], partner, run.folder)]
    for title, gain in (("Became right", 1), ("Became wrong", -1)):
        changed = [row for row in rows if id(row) in partner and row["correct"] - partner[id(row)]["correct"] == gain]
        parts.append(_samples(f"{title} (the first of {len(changed)})", changed[:NUM_CHANGED], partner, run.folder))
    return _box_legend(rows, bool(partner)) + "".join(parts)


def _box_legend(rows: Sequence[Row], has_before: bool) -> str:
    if not any(is_box(row["ground_truth"]) for row in rows):
        return ""
    after = "answer after training" if has_before else "answer"
    keys = [("--truth", "true box"), ("--after", after)] + ([("--before", "answer before")] if has_before else [])
    spans = "".join(f'<span><i style="background:var({color})"></i>{name}</span>' for color, name in keys)
    return f'<p class="legend">{spans}</p>'


def _samples(title: str, rows: Sequence[Row], partner: Mapping[int, Row], folder: Path) -> str:
    if not rows:
        return ""
    cards = "".join(_sample(row, partner.get(id(row)), folder) for row in rows)
    return f'<p class="quiet">{escape(title)}</p><div class="gallery">{cards}</div>'


def _sample(row: Row, before: Row | None, folder: Path) -> str:
    boxes = {"truth": row["ground_truth"], "before": before and before["extracted_answer"]}
    boxes["after"] = row["extracted_answer"]
    verdict = "right" if row["correct"] else "wrong"
    lines = [f'<p class="verdict {verdict}">{verdict}, score {number(float(row.get("score", row["correct"])))}</p>']
    lines.append(f"<p>{escape(str(row['question']))}</p>")
    if is_box(row["ground_truth"]) and row["extracted_answer"] is None:
        lines.append('<p class="quiet">no box in the answer</p>')
    if not is_box(row["ground_truth"]):
        lines.append(f'<p class="quiet">expected {shown(row["ground_truth"])}, read {shown(row["extracted_answer"])}')
        lines.append(f", before {shown(before['extracted_answer'])}</p>" if before else "</p>")
    shown_picture = picture(row.get("image"), folder, boxes) if row.get("image") else ""
    return f'<div class="sample">{shown_picture}{"".join(lines)}</div>'


def shown(value: Any) -> str:
    """An answer as escaped text: numbers short, boxes in whole px, None as a dash."""
    if value is None:
        return "&ndash;"
    if is_box(value):
        return "[" + ", ".join(f"{edge:.0f}" for edge in value) + "]"
    return escape(number(value) if isinstance(value, float) else str(value))
