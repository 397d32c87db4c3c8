# SPDX-License-Identifier: Apache-2.0
"""The peer's JSON lines beside ours: ratios of medians over steps during which the machine did little else."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..runtime import DATA, Stop

QUIET = 0.2
"""Cores other processes may keep busy in a step that counts."""
ROWS = ("step", "generate", "ref_logprob", "policy_forward", "loss_total", "backward", "clip", "optimizer", "reward")
SAME = ("size", "params", "lengths", "prompts", "gens", "new", "prompt_tokens", "beta", "threads")
"""Keys in which both sides must agree."""


def load(folder: Path, side: str) -> list[dict[str, Any]]:
    """Read the runs of one side, SIDE_*.json."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{side}_*.json"))]
    if not runs:
        raise Stop(f"{folder}: no {side}_*.json", DATA)
    return runs


def quiet_steps(runs: Sequence[dict[str, Any]], limit: float = QUIET) -> list[dict[str, float]]:
    """Collect the measured steps of all runs during which others kept less than `limit` cores busy."""
    return [step for run in runs for step in run["per_step"] if step["others_cpu"] < limit]


def compare(peer: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]], limit: float = QUIET) -> dict[str, Any]:
    """Give medians over quiet steps, seconds, and how many times longer the peer takes.

    Runs of different work are refused; so is a side without a quiet step.
    """
    for run in [*peer, *ours]:
        differs = [f"{key} {run.get(key)}, not {peer[0].get(key)}" for key in SAME if run.get(key) != peer[0].get(key)]
        if differs:
            raise Stop(f"these runs did not do the same work: {'; '.join(differs)}", DATA)
    steps = {"peer": quiet_steps(peer, limit), "ours": quiet_steps(ours, limit)}
    for side, quiet in steps.items():
        if not quiet:
            raise Stop(f"no step of {side} had others below {limit} cores; measure again on a quiet machine", DATA)
    rows = {}
    for name in ROWS:
        theirs, own = (statistics.median(step[name] for step in steps[side]) for side in ("peer", "ours"))
        rows[name] = {"peer_s": round(theirs, 4), "ours_s": round(own, 4), "ratio": _ratio(theirs, own)}
    peaks = [statistics.median(run["peak_rss_mb"] for run in runs) for runs in (peer, ours)]
    return {
        "work": {key: peer[0].get(key) for key in SAME},
        "quiet_steps": {side: f"{len(steps[side])} of {_num_steps(runs)}" for side, runs in _sides(peer, ours)},
        "rows": rows,
        "peak_rss_mb": {"peer": peaks[0], "ours": peaks[1], "ours_over_peer": round(peaks[1] / peaks[0], 3)},
    }


def _sides(peer, ours):
    return (("peer", peer), ("ours", ours))


def _num_steps(runs: Sequence[dict[str, Any]]) -> int:
    return sum(len(run["per_step"]) for run in runs)


def _ratio(theirs: float, own: float) -> float | None:
    return round(theirs / own, 2) if own > 0 else None


def table(result: dict[str, Any]) -> str:
    """Lay a comparison out as lines of text."""
    lines = [", ".join(f"{key} {value}" for key, value in result["work"].items() if value != "")]
    lines.append("quiet steps: " + ", ".join(f"{side} {count}" for side, count in result["quiet_steps"].items()))
    lines.append(f"{'median':16}{'peer s':>10}{'ours s':>10}{'times':>8}")
    for name, row in result["rows"].items():
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
        lines.append(f"{name:16}{row['peer_s']:10.4f}{row['ours_s']:10.4f}{ratio:>8}")
    peak = result["peak_rss_mb"]
    lines.append(f"peak memory, MB: peer {peak['peer']:.0f}, ours {peak['ours']:.0f} ({peak['ours_over_peer']:.2f} x)")
    return "\n".join(lines)
