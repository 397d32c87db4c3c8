# SPDX-License-Identifier: Apache-2.0
"""The held-out sets people compare on: which task each one is, and whether it is from the domain trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

Domain = Literal["in", "out"]


class HeldOut(NamedTuple):
    """A published test set."""

    name: str
    """The file's name without its suffix."""
    word: str
    """detection, classify or math: what `--task_list` calls it."""
    task: str
    domain: Domain
    folder: str
    """Where the curriculum data set (`r1-mllm data prepare curriculum`) keeps it."""


_COCO = "grpo_data/train/open/coco_3k_2task"
SETS = {
    entry.name: entry
    for entry in (
        HeldOut("detection_coco_test", "detection", "rec", "in", _COCO),
        HeldOut("refgta_subsample_resize", "detection", "rec", "out", "grpo_data/test/Refgta"),
        HeldOut("classify_v2_coco_test", "classify", "classification", "in", _COCO),
        HeldOut("classify_pascal_voc_test", "classify", "classification", "out", "grpo_data/test/pascal"),
        HeldOut("math_math_test", "math", "geometry", "in", "grpo_data/train/open/openr1_8k"),
        HeldOut("superclevr_test200_counting_problems", "math", "counting", "out", "grpo_data/test/superclever"),
    )
}
DOMAINS: dict[str, Domain] = {
    **{name: entry.domain for name, entry in SETS.items()},
    **dict.fromkeys(("refcoco_val", "refcocop_val", "refcocog_val", "geoqa_test_prompts"), "in"),
    "refgta_subsample": "out",
}
"""Name -> whether the published training sets are of the same kind; sets of one's own are not in it."""

FULL_SIZE, RESIZED = "final", "final_resize"
"""RefGTA's picture folders."""


def names(words: tuple[str, ...], domain: Literal["in", "out", "both"] = "both") -> tuple[str, ...]:
    """Give the sets of these tasks, task by task, the trained domain first."""
    known = {entry.word for entry in SETS.values()}
    for word in words:
        if word not in known:
            raise ValueError(f"--task_list {word}: no held-out sets of that name; known: {', '.join(sorted(known))}")
    wanted = ("in", "out") if domain == "both" else (domain,)
    entries = [entry for word in words for entry in SETS.values() if entry.word == word]
    return tuple(entry.name for entry in entries if entry.domain in wanted)


def label(name: str) -> str | None:
    """Give "detection_in", "math_out" ... for a set of `SETS`."""
    entry = SETS.get(name)
    return f"{entry.word}_{entry.domain}" if entry else None


def resized(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Turn a RefGTA row to its resized picture: that picture's path, and the box in that picture's px.

    One picture has one gold box; the box of the full-size picture and the per-mille one take no part.
    """
    box = row.get("resize_solution")
    if box is None:
        raise ValueError(f"{where}: no resize_solution; --resized_images is for refgta_subsample_resize")
    parts = PurePosixPath(str(row.get("image", ""))).parts
    at = parts.index(FULL_SIZE) if FULL_SIZE in parts else None
    moved = parts if at is None else (*parts[:at], RESIZED, *parts[at + 1 :])
    return {**row, "image": str(PurePosixPath(*moved)), "solution": box}
