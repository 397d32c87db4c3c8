# SPDX-License-Identifier: Apache-2.0
"""Line charts as SVG text: the raw values faint, a moving average over them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from .run_files import Points

WIDTH, HEIGHT = 420, 210
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 26
"""px between the picture's edges and the plot."""
COLORS = ("#2a6fdb", "#d9622b", "#128a63", "#7a4fc4", "#b0871b", "#5b6675")
STRONGER = 4
"""A stronger average is over so many times the points."""
MAX_POINTS = 400
"""More raw points than this are not distinguishable at this width."""


def smooth(points: Points, span: int) -> Points:
    """Exponential moving average with the weight of `span` points, corrected for its start at nothing."""
    keep = 1.0 - 2.0 / (span + 1.0)
    total = weight = 0.0
    averaged = []
    for step, value in points:
        total = keep * total + (1.0 - keep) * value
        weight = keep * weight + (1.0 - keep)
        averaged.append((step, total / weight))
    return averaged


def span_of(num_points: int) -> int:
    """How many points to average: a twentieth of the run, at least 1."""
    return max(1, round(num_points / 20))


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers within [low, high], about as many as asked; low < high."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def number(value: float) -> str:
    """Three significant digits; whole numbers whole."""
    if abs(value) < 1e-12:
        return "0"
    return f"{value:.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def line_chart(series: Mapping[str, Points], choices: bool = False) -> str:
    """Draw one or several series over the training step; at least one point in all.

    A single series shows its raw values faint behind the average; of several only the averages are drawn.

    Args:
        choices: also draw the values themselves and a stronger average; the page's style shows one of the three.
    """
    frame = Frame([point for points in series.values() for point in points])
    parts = [frame.axes()]
    for color, (name, points) in zip(_cycle(len(series)), series.items(), strict=True):
        if not points:
            continue
        if len(series) == 1 and len(points) > 1:
            parts.append(frame.line(_thin(points), color, 'stroke-width="1" stroke-opacity="0.28"'))
        averaged = smooth(points, span_of(len(points)))
        usual = ' class="usual"' if choices else ""
        parts.append(frame.line(_thin(averaged), color, f'stroke-width="2"{usual}'))
        if choices:
            stronger = smooth(points, STRONGER * span_of(len(points)))
            parts.append(frame.line(_thin(stronger), color, 'stroke-width="2" class="stronger"'))
            parts.append(frame.line(_thin(points), color, 'stroke-width="1.2" class="plain"'))
        step, value = points[-1]
        parts.append(
            f'<circle cx="{frame.x(step):.1f}" cy="{frame.y(averaged[-1][1]):.1f}" r="3" fill="{color}">'
            f"<title>{escape(name)}: {number(value)} at step {number(step)}</title></circle>"
        )
    label = escape(", ".join(series), quote=True)
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def legend(names: list[str]) -> str:
    """Colour keys of a chart with several series; nothing for one."""
    if len(names) < 2:
        return ""
    keys = (
        f'<span><i style="background:{color}"></i>{escape(name)}</span>'
        for color, name in zip(_cycle(len(names)), names, strict=True)
    )
    return f'<p class="legend">{"".join(keys)}</p>'


def _cycle(count: int) -> list[str]:
    return [COLORS[index % len(COLORS)] for index in range(count)]


def _thin(points: Points) -> Points:
    """At most about MAX_POINTS of them, evenly, the last one always."""
    stride = -(-len(points) // MAX_POINTS)
    return points[::stride] if (len(points) - 1) % stride == 0 else [*points[::stride], points[-1]]


class Frame:
    """The axes of one chart: from steps and values to px."""

    def __init__(self, points: Points):
        steps, values = [step for step, _ in points], [value for _, value in points]
        self.step_low, self.step_high = min(steps), max(steps)
        if self.step_low == self.step_high:
            self.step_high = self.step_low + 1.0
        low, high = min(values), max(values)
        margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
        # A quantity that cannot be negative starts at zero when its values come near it.
        self.low = 0.0 if 0.0 <= low <= 0.35 * high else low - margin
        self.high = high + margin

    def x(self, step: float) -> float:
        return LEFT + (step - self.step_low) / (self.step_high - self.step_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def line(self, points: Points, color: str, style: str) -> str:
        path = " ".join(f"{self.x(step):.1f},{self.y(value):.1f}" for step, value in points)
        return f'<polyline fill="none" stroke="{color}" stroke-linejoin="round" {style} points="{path}"/>'

    def y_axis(self) -> str:
        parts = []
        for value in ticks(self.low, self.high):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(value)}</text>')
        return "".join(parts)

    def axes(self) -> str:
        parts = [self.y_axis()]
        for step in filter(float.is_integer, map(float, ticks(self.step_low, self.step_high, 5))):
            parts.append(f'<text x="{self.x(step):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{number(step)}</text>')
        return "".join(parts)
