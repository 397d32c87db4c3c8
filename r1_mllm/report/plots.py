# SPDX-License-Identifier: Apache-2.0
"""The curves of a run as one PNG picture, for places that take no HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .charts import smooth, span_of
from .page import panels
from .run_files import Points, RunFiles, read_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3
PANEL_INCHES = (4.2, 2.8)
DPI = 110


def write_plots(run_dir: str | Path, out: str | Path | None = None) -> Path:
    """Draw what the run logged, each step faint and its moving average strong, and return the picture's path.

    Args:
        out: RUN_DIR/curves.png unless given.

    Raises:
        ValueError: a folder without a run, or a run that logged nothing.
    """
    run = read_run(run_dir)
    found = panels(run)
    if not found:
        raise ValueError(f"{run_dir}: metrics.jsonl has no numbers to draw yet")
    path = Path(out) if out is not None else run.folder / "curves.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(run, found).savefig(path, dpi=DPI, format="png")
    return path


def draw(run: RunFiles, found: Sequence[tuple[str, Mapping[str, Points]]]) -> Figure:
    """Draw curves (title, {metric: points}) side by side, each step faint and its moving average strong."""
    from matplotlib.figure import Figure  # 0.5 s and more, for this picture only

    rows = math.ceil(len(found) / COLUMNS)
    figure = Figure((COLUMNS * PANEL_INCHES[0], rows * PANEL_INCHES[1]), layout="constrained")
    figure.suptitle(run.name)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for (title, series), axis in zip(found, axes, strict=False):
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=7)
        for name, points in series.items():
            steps, values = zip(*points, strict=True)
            (line,) = axis.plot(steps, values, alpha=0.3, linewidth=0.8)
            averaged = [value for _, value in smooth(points, span_of(len(points)))]
            axis.plot(steps, averaged, color=line.get_color(), label=name, marker="." if len(points) == 1 else None)
        if len(series) > 1:
            axis.legend(fontsize=6)
    for axis in list(axes):  # what the last row has left over
        axis.set_axis_off()
    return figure
