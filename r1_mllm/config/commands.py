# SPDX-License-Identifier: Apache-2.0
"""The command lines that made a run's folder, one JSON line each time it was begun or continued."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path

from ..runtime import VERSION

NAME = "commands.jsonl"


def record_command(folder: Path) -> None:
    """Append the command line of this process, its folder and the time."""
    program, *words = sys.argv
    name = os.path.basename(program)
    start = ["python", "-m", "r1_mllm"] if name == "__main__.py" else [name]
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": shlex.join([*start, *words]),
        "cwd": os.getcwd(),
        "processes": int(os.environ.get("PADDLE_TRAINERS_NUM", "1")),
        "version": VERSION,
    }
    with (folder / NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
