# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's chat template: messages become text, in a worker process that a bad template may bring down."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .image import read_json

BUILT_IN = Path(__file__).with_name("chat_templates")
WORKER = Path(__file__).with_name("template_worker.py")
# The worker sees this process's import path; its own folder stays off it, so that nothing there can hide a module.
START = "import runpy, sys; path = sys.argv[1]; sys.path[:] = sys.argv[2:]; runpy.run_path(path, run_name='__main__')"
START_SECONDS = 60.0
WALL_SECONDS = 20.0
"""The worker's own limit of 2 s counts processor time; this one catches what never returns to its interpreter."""


def template_source(folder: str | os.PathLike) -> str | None:
    """Find the chat template of a checkpoint folder; None when it has none."""
    path = Path(folder) / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = Path(folder) / name
        found = read_json(path).get("chat_template") if path.is_file() else None
        if isinstance(found, list):  # several by name
            found = {entry["name"]: entry["template"] for entry in found}
        if isinstance(found, dict):
            found = found.get("default")
        if found is not None:
            return found
    return None


def named_template(name: str) -> str:
    """Read a chat template by its built-in name (generic, dialogue, r1_zero) or from a .jinja file."""
    known = sorted(path.stem for path in BUILT_IN.glob("*.jinja"))
    path = BUILT_IN / f"{name}.jinja" if name in known else Path(name)
    if not path.is_file():
        raise ValueError(f"chat template {name!r} is no file and none of {', '.join(known)}")
    return path.read_text(encoding="utf-8")


class ChatTemplate:
    """Renders messages with one template; starts its worker when first used, and again in a forked process."""

    def __init__(self, source: str, variables: Mapping[str, Any] | None = None, name: str = "chat template") -> None:
        """`variables` (bos_token, eos_token ...) are visible to the template; `name` is what errors call it."""
        self.source, self.variables, self.name = source, dict(variables or {}), name
        self._worker: subprocess.Popen | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "variables": self.variables, "name": self.name}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(**state)

    def render(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
        """Render messages; values JSON cannot hold (pictures) reach the template as empty strings.

        ValueError when the template fails or exceeds a limit: 2 s of processor time, 400 MB, 4 million characters.
        """
        request = {"variables": {**self.variables, **variables, "messages": messages}}
        with self._lock:
            if self._worker is None or self._owner != os.getpid():
                self._start()
            return self._ask(request, WALL_SECONDS)

    def _start(self) -> None:
        command = [sys.executable, "-I", "-c", START, str(WORKER), *sys.path]
        # A session of its own: Ctrl-C is meant for us; the worker ends when its input does.
        pipe = subprocess.PIPE
        self._worker = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self._owner = os.getpid()
        try:
            self._ask({"source": self.source}, START_SECONDS)
        except ValueError:  # does not compile
            self.close()
            raise

    def _ask(self, request: Mapping[str, Any], seconds: float) -> str:
        try:
            self._worker.stdin.write(json.dumps(request, default=lambda _: "").encode("ascii") + b"\n")
            self._worker.stdin.flush()
            reply = json.loads(self._read_line(time.monotonic() + seconds))
        except (OSError, TimeoutError, ValueError) as error:
            self.close()
            raise ValueError(f"{self.name}: its worker process gave no answer ({error})") from error
        if "error" in reply:
            raise ValueError(f"{self.name}: {reply['error']}")
        return reply["text"]

    def _read_line(self, deadline: float) -> bytes:
        pieces, pipe = [], self._worker.stdout.fileno()
        while not pieces or not pieces[-1].endswith(b"\n"):
            if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError("time is up")
            pieces.append(os.read(pipe, 1 << 16))
            if not pieces[-1]:
                raise OSError("it ended")
        return b"".join(pieces)

    def close(self) -> None:
        """End the worker; the next `render` starts a new one."""
        worker, self._worker = self._worker, None
        if worker is None or self._owner != os.getpid():
            return
        worker.kill()
        worker.wait()
        worker.stdin.close()
        worker.stdout.close()
