# SPDX-License-Identifier: Apache-2.0
"""scripts/preprocess_refcoco.py: conversations about boxes, their question rewritten for supervised fine-tuning."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import read

_LEAD = re.compile(
    r"^(?:(?:please\s+)?(?:provide|give|output|find|locate)\b[^:]*|[^:]*\b(?:sentence|region|expression|caption|"
    r"description|phrase)\b[^:]*):\s*",
    re.I,
)
"""The instruction before a caption: "Please provide the bounding box ... this sentence describes: ..."."""


def question(caption: str) -> str:
    """What the model is asked about a phrase."""
    return f"<image>Locate {caption} and output its bounding box in JSON."


def caption_of(row: Mapping[str, Any], where: str) -> str:
    """The phrase of a row: its own column if it has one, else what its question says after the instruction.

    A colon inside the phrase stays, and a question without an instruction is the phrase itself.
    """
    text = row.get("normal_caption") or row.get("caption")
    if not text:
        turns = row.get("messages") or ()
        asked = turns[0].get("content") if turns and isinstance(turns[0], Mapping) else row.get("problem")
        if not isinstance(asked, str):
            raise ValueError(f"{where}: no question; a row needs `messages`, `problem` or `normal_caption`")
        text = _LEAD.sub("", asked.replace("<image>", "").strip(), count=1)
    caption = str(text).strip().removesuffix(".").strip()
    if not caption:
        raise ValueError(f"{where}: the phrase is empty")
    return caption


def rewritten(row: Mapping[str, Any], where: str, image_dir: str) -> dict[str, Any]:
    """A row as `messages` and `images`: the question asks for JSON, the first picture is IMAGE_DIR/its file name.

    Rows of the REC annotations (image, problem, solution) become such rows too; other columns stay.
    """
    asked = question(caption_of(row, where))
    turns = [dict(turn) for turn in row.get("messages") or ()]
    if not turns:
        box = row.get("solution")
        if not isinstance(box, Sequence) or isinstance(box, str) or len(box) != 4:
            raise ValueError(f"{where}: no answer; a row needs `messages` or a box [x1, y1, x2, y2] in `solution`")
        answer = json.dumps({"bbox_2d": [round(side) for side in box], "label": caption_of(row, where)})
        turns = [{"role": "user"}, {"role": "assistant", "content": f"```json\n[{answer}]\n```"}]
    turns[0]["content"] = asked
    pictures = list(row.get("images") or ([row["image"]] if row.get("image") else ()))
    if not pictures or not isinstance(pictures[0], str):
        raise ValueError(f"{where}: no picture; a row needs `images` or `image`")
    pictures[0] = os.path.join(image_dir, os.path.basename(pictures[0]))
    rest = {key: value for key, value in row.items() if key not in ("messages", "images", "image", "problem")}
    return {**rest, "messages": turns, "images": pictures}


def main(argv: Sequence[str] | None = None) -> None:
    """Read JSON_PATH (a list or lines), write OUTPUT_PATH as an indented list in one rename."""
    parser = argparse.ArgumentParser("preprocess_refcoco.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json_path", required=True, help="JSON list or lines: messages/images, or REC annotations")
    parser.add_argument("--image_dir", required=True, help="folder of the pictures")
    parser.add_argument("--output_path", required=True, help="JSON list for r1-mllm sft")
    given = parser.parse_args(argv)
    try:
        made = [rewritten(row, where, given.image_dir) for row, where in read.rows(given.json_path)]
        if not made:
            raise ValueError(f"{given.json_path}: no rows")
        out = Path(given.output_path)
        out.parent.mkdir(parents=True, exist_ok=True)
        staged = out.with_name(f"{out.name}.tmp")
        staged.write_text(json.dumps(made, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
        staged.replace(out)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{out}: {len(made)} rows")
