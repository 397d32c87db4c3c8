# SPDX-License-Identifier: Apache-2.0
"""Curves with their intervals as one SVG file that stands alone: every value as it was measured, joined by lines.

Nothing is smoothed, fitted or left out; the training curves of a run's page are drawn by charts.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .charts import BOTTOM, COLORS, HEIGHT, WIDTH, Frame, number, ticks
from .run_files import Points

STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#5d6878}.title{font-size:13px;fill:#1c2330}"
    ".grid{stroke:#dfe4ea;stroke-width:1}"
)
TITLE_HEIGHT, LEGEND_LINE = 22, 16
"""px."""


@dataclass(frozen=True)
class Curve:
    """A line over the numbers of the horizontal axis."""

    name: str
    points: Points
    bounds: Sequence[tuple[float, float]] = ()
    """(low, high) of each point; empty: none are drawn."""
    dashed: bool = False


def curve_chart(title: str, x_label: str, curves: Sequence[Curve], log_x: bool = False) -> str:
    """Draw the curves into one picture with a legend; at least one point in all.

    Args:
        log_x: the horizontal axis counts doublings; all its values are above 0.
    """
    place = math.log2 if log_x else float
    values = [(place(x), y) for curve in curves for x, y in curve.points]
    edges = [
        (place(x), y)
        for curve in curves
        for (x, _), pair in zip(curve.points, curve.bounds, strict=False)
        for y in pair
    ]
    frame = Frame(values + edges)
    xs = sorted({x for curve in curves for x, _ in curve.points})
    labels = {place(x): number(x) for x in xs} if log_x or len(xs) <= 8 else None
    parts = [f'<text class="title" x="8" y="15">{escape(title)}</text>', f'<g transform="translate(0,{TITLE_HEIGHT})">']
    parts.append(frame.y_axis() + _x_axis(frame, labels))
    for i, curve in enumerate(curves):
        parts.append(_drawn(frame, curve, COLORS[i % len(COLORS)], place))
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT + 8}" text-anchor="middle">{escape(x_label)}</text></g>')
    top = TITLE_HEIGHT + HEIGHT + 24
    for i, curve in enumerate(curves):
        parts.append(_key(curve, COLORS[i % len(COLORS)], top + i * LEGEND_LINE))
    height = top + len(curves) * LEGEND_LINE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{2 * WIDTH}" '
        f'height="{2 * height}" role="img"><title>{escape(title)}</title><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _x_axis(frame: Frame, labels: dict[float, str] | None) -> str:
    shown = labels or {x: number(x) for x in ticks(frame.step_low, frame.step_high, 5)}
    y = HEIGHT - BOTTOM + 16
    return "".join(
        f'<text x="{frame.x(x):.1f}" y="{y}" text-anchor="middle">{text}</text>' for x, text in shown.items()
    )


def _drawn(frame: Frame, curve: Curve, color: str, place) -> str:
    points = [(place(x), y) for x, y in curve.points]
    parts = []
    for (x, _), (low, high) in zip(points, curve.bounds, strict=False):
        at = f"{frame.x(x):.1f}"
        parts.append(
            f'<line x1="{at}" x2="{at}" y1="{frame.y(low):.1f}" y2="{frame.y(high):.1f}" stroke="{color}" '
            'stroke-width="5" stroke-opacity="0.22"/>'
        )
    dash = ' stroke-dasharray="5 3"' if curve.dashed else ""
    if points:
        parts.append(frame.line(points, color, f'stroke-width="2"{dash}'))
    for (x, y), (shown, _) in zip(points, curve.points, strict=True):
        words = escape(f"{curve.name}: {number(y)} at {number(shown)}")
        parts.append(f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3" fill="{color}"><title>{words}</title>')
        parts.append("</circle>")
    return "".join(parts)


def _key(curve: Curve, color: str, y: int) -> str:
    dash = ' stroke-dasharray="5 3"' if curve.dashed else ""
    return (
        f'<line x1="52" x2="74" y1="{y}" y2="{y}" stroke="{color}" stroke-width="2"{dash}/>'
        f'<text x="80" y="{y + 4}">{escape(curve.name)}</text>'
    )
