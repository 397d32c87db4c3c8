# SPDX-License-Identifier: Apache-2.0
"""Rewards from a user's file, `path.py:function`, called in a worker process that may hang, die or lie.

The function gets a Group (records.py) without pixels: example, completions, grades and the prompt's text are there.
With `reward_isolation none` it is called in this process and gets the whole group.
"""

from __future__ import annotations

import atexit
import base64
import dataclasses
import hashlib
import importlib.util
import json
import logging
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..config import RewardConfig
from ..records import Completion, Example, Grade, Group, Prompt, View
from .reward_files import Scores, adapt
from .reward_worker import MAX_REPLY_BYTES

_log = logging.getLogger(__name__)
_MAX_FAILED_SHARE = 0.05
_WINDOW = 200
_START_SECONDS = 120.0
PRINTED_BYTES = 1 << 16
"""So much of what one worker prints is shown."""
_CLASSES = {kind.__name__: kind for kind in (Group, Example, Prompt, Completion, Grade, View, RewardConfig)}
_LEFT_OUT = ("ids", "positions", "pixels", "grids", "second_per_grid", "answers")
"""Fields of a prompt that stay in this process."""
STATUSES = ("ok", "abstain", "error", "timeout", "died")


class WorkerError(Exception):
    """What became of a call that gave no values."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


def encode(value: Any) -> Any:
    """Turn a group, a configuration or what examples hold into JSON values that `decode` turns back."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple):
        return {"~": "tuple", "of": [encode(item) for item in value]}
    if isinstance(value, set | frozenset):
        return {"~": "frozenset", "of": [encode(item) for item in value]}
    if isinstance(value, bytes):
        return {"~": "bytes", "of": base64.b64encode(value).decode("ascii")}
    if isinstance(value, np.ndarray):
        return {"~": "array", "of": encode(value.tolist()), "dtype": value.dtype.name}
    if type(value).__name__ in _CLASSES and dataclasses.is_dataclass(value):
        skipped = _LEFT_OUT if isinstance(value, Prompt) else ()
        fields = {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)}
        fields = {name: encode(item) for name, item in fields.items() if name not in skipped}
        return {"~": type(value).__name__, "of": fields}
    if hasattr(value, "items"):
        return {"~": "dict", "of": [[encode(key), encode(item)] for key, item in value.items()]}
    return str(value)


def decode(value: Any) -> Any:
    """Turn what `encode` made back; a prompt's arrays are None."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind, content = value["~"], value["of"]
    if kind == "bytes":
        return base64.b64decode(content)
    if kind == "array":
        return np.array(decode(content), dtype=value["dtype"])
    if kind == "dict":
        return {decode(key): decode(item) for key, item in content}
    if kind in ("tuple", "frozenset"):
        return (tuple if kind == "tuple" else frozenset)(decode(item) for item in content)
    missing = dict.fromkeys(("ids", "positions"), None) if kind == "Prompt" else {}
    return _CLASSES[kind](**missing, **{name: decode(item) for name, item in content.items()})


class Worker:
    """A process that has imported the user's file; started when first needed and again after it died."""

    def __init__(self, path: str, function: str, memory_mb: int) -> None:
        self.path, self.function, self.memory_mb = path, function, memory_mb
        self.starts = 0
        self._process: subprocess.Popen | None = None
        self._owner = os.getpid()
        self._request = 0
        self._lock = threading.Lock()
        atexit.register(self.close)

    def start(self) -> None:
        """Start unless it runs; ValueError with the traceback when the file cannot be imported."""
        if self._process is not None and self._owner == os.getpid():
            return
        self._owner, self.starts = os.getpid(), self.starts + 1
        script = str(Path(__file__).with_name("reward_worker.py"))
        self._process = subprocess.Popen(
            [sys.executable, "-I", script, str(os.getpid()), str(self.memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        threading.Thread(target=_forward, args=(self._process.stderr,), daemon=True).start()
        os.set_blocking(self._process.stdin.fileno(), False)
        own = str(Path(__file__).resolve().parents[2])
        paths = [own, *(path for path in sys.path if path and path != str(Path(__file__).parents[1]))]
        try:
            self._send({"path": str(Path(self.path).resolve()), "function": self.function, "sys_path": paths})
            reply = self._receive(0, time.monotonic() + _START_SECONDS)
        except WorkerError as error:
            raise ValueError(f"the reward file {self.path} does not start: {error}") from error
        if "error" in reply:
            self.close()
            raise ValueError(f"the reward file {self.path} cannot be used:\n{reply['error']}")

    def ask(self, arguments: Sequence[Any], seconds: float) -> Any:
        """Call the function; WorkerError when it raises, is too slow, or takes its process with it."""
        with self._lock:
            try:
                reply = self._exchange(arguments, seconds)
            except WorkerError as error:
                if error.status != "died":
                    raise
                reply = self._exchange(arguments, seconds)  # something else may have killed it: once more
        if "error" in reply:
            raise WorkerError("error", reply["error"].strip())
        return Scores(_numbers(reply["values"]), {name: _numbers(part) for name, part in reply["parts"].items()})

    def _exchange(self, arguments: Sequence[Any], seconds: float) -> dict[str, Any]:
        self.start()
        self._request += 1
        self._send({"id": self._request, "arguments": [encode(value) for value in arguments]})
        return self._receive(self._request, time.monotonic() + seconds)

    def close(self) -> None:
        """Kill the worker and what it started; the next call starts a new one."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        for kill in (lambda: os.killpg(process.pid, signal.SIGKILL), process.kill):
            try:
                kill()
            except (ProcessLookupError, PermissionError):
                pass
        process.wait()
        process.stdin.close()
        process.stdout.close()

    def _send(self, message: Any) -> None:
        body = json.dumps(message).encode("ascii")
        data = memoryview(struct.pack("<I", len(body)) + body)
        pipe, deadline = self._process.stdin.fileno(), time.monotonic() + _START_SECONDS
        try:
            while data:
                if not select.select([], [pipe], [], max(0.0, deadline - time.monotonic()))[1]:
                    raise OSError("it does not read")
                data = data[os.write(pipe, data) :]
        except OSError as error:
            self.close()
            raise WorkerError("died", "its process was gone before the call") from error

    def _receive(self, request: int, deadline: float) -> dict[str, Any]:
        """Read frames until the one that answers this request."""
        try:
            while True:
                (size,) = struct.unpack("<I", self._read(4, deadline))
                if size > MAX_REPLY_BYTES:
                    raise WorkerError("error", f"its reply has {size} bytes, {MAX_REPLY_BYTES} are allowed")
                reply = json.loads(self._read(size, deadline))
                if reply["id"] == request:
                    return reply
        except WorkerError:
            self.close()
            raise
        except (ValueError, KeyError, TypeError) as error:
            self.close()
            raise WorkerError("error", f"its reply is not one: {error}") from error

    def _read(self, size: int, deadline: float) -> bytes:
        handle, content = self._process.stdout.fileno(), b""
        while len(content) < size:
            seconds = deadline - time.monotonic()
            if seconds <= 0 or not select.select([handle], [], [], seconds)[0]:
                raise WorkerError("timeout", "no answer within its time; --reward_timeout allows more")
            chunk = os.read(handle, size - len(content))
            if not chunk:
                raise WorkerError("died", f"its process ended ({_ending(self._process)})")
            content += chunk
        return content


def _forward(stream: BinaryIO) -> None:
    """Show the first of what the user's code prints; the rest is read and dropped, so that it never blocks or fails."""
    left = PRINTED_BYTES
    with stream:
        while chunk := stream.read(1 << 16):
            if left > 0:
                sys.stderr.write(chunk[:left].decode("utf-8", "replace") + ("" if len(chunk) <= left else " ...\n"))
            left -= len(chunk)


def _ending(process: subprocess.Popen) -> str:
    try:
        code = process.wait(1.0)
    except subprocess.TimeoutExpired:
        return "closed its end"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


class UserReward:
    """A function from a user's file, in any form of reward_files.py: G numbers, None for "cannot judge".

    Its first call must work.  Later failures (it raises, exceeds reward_timeout, dies) cost the group this reward, or
    are 0 with reward_error zero; they are logged and counted, and end the run when more than 5 % of the last 200 calls
    failed.
    """

    def __init__(
        self, name: str, call: Callable[[Group, RewardConfig, float], Any], worker: Worker | None = None
    ) -> None:
        """`call(group, config, seconds)` gives values, or raises anything; `worker` is what it talks to."""
        self.name, self.call, self.worker = name, call, worker
        self.calls = self.failures = 0
        self.counts: Counter[str] = Counter()
        """STATUSES -> completions since `take_counts`."""
        self._recent: list[bool] = []

    def __call__(self, group: Group, config: RewardConfig) -> np.ndarray:
        """Return [G] float64, NaN where the function could not judge."""
        self.calls += 1
        num = len(group.completions)
        try:
            scores = self.call(group, config, _START_SECONDS if self.calls == 1 else config.reward_timeout)
        except Exception as error:  # the user's code may raise anything; the plan is in the class docstring
            self.counts[getattr(error, "status", "error")] += num
            self._count(True, error)
            return np.full(num, 0.0 if config.reward_error == "zero" else np.nan)
        self._count(False, None)
        values = scores.values
        for name, part in scores.parts.items():
            group.details[f"{self.name}/{name}"] = _detail(part, num)
        if isinstance(values, Sequence | np.ndarray) and not isinstance(values, str | bytes):
            judged = sum(isinstance(value, int | float | np.number) and bool(np.isfinite(value)) for value in values)
            self.counts["ok"] += judged
            self.counts["abstain"] += len(values) - judged
        return values

    def take_counts(self) -> dict[str, int]:
        """Give what became of the completions since this was last asked, under every name of STATUSES."""
        counts = {status: self.counts[status] for status in STATUSES}
        self.counts.clear()
        return counts

    def _count(self, failed: bool, error: Exception | None) -> None:
        self._recent = [*self._recent[1 - _WINDOW :], failed]
        if not failed:
            return
        self.failures += 1
        _log.warning("reward %r: %s; failures so far: %d of %d calls", self.name, error, self.failures, self.calls)
        too_many = len(self._recent) == _WINDOW and sum(self._recent) > _MAX_FAILED_SHARE * _WINDOW
        if self.calls == self.failures or too_many:
            raise ValueError(
                f"reward {self.name!r}: {type(error).__name__}: {error}{_place(error)} "
                f"({sum(self._recent)} of its last {len(self._recent)} calls failed)"
            ) from error


def _place(error: Exception) -> str:
    """Say where in the user's code an exception was raised; nothing for what a worker told."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first one is the call here
    inside = frames and not isinstance(error, WorkerError)
    return f" at {frames[-1].filename}:{frames[-1].lineno}" if inside else ""


def load_user_reward(path: str, function: str, name: str, config: RewardConfig) -> UserReward:
    """Start a worker with the user's file and say which file it is; ValueError with the traceback if it does not start.

    Args:
        name: of the reward in messages.
    """
    if not Path(path).is_file():
        raise ValueError(f"reward {name!r}: no file {path!r}")
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    _log.info("reward %s from %s, sha256 %s; it runs with your rights", function, Path(path).resolve(), digest)
    if config.reward_isolation == "none":
        return UserReward(name, _inside(path, function, name))
    worker = Worker(path, function, config.reward_memory_mb)
    try:
        worker.start()
    except ValueError as error:
        raise ValueError(f"reward {name!r}: {error}") from error

    def call(group: Group, config: RewardConfig, seconds: float) -> Any:
        return worker.ask((group, config), seconds)

    return UserReward(name, call, worker)


def _detail(part: Any, num: int) -> np.ndarray:
    """A part for the logs as [G] float64; NaN for what is no number."""
    sound = isinstance(part, Sequence | np.ndarray) and len(part) == num
    values = part if sound else [None] * num
    return np.array([float(value) if isinstance(value, int | float | np.number) else np.nan for value in values])


def _numbers(values: Any) -> Any:
    """Give what the worker sent a form that rewards.score checks and refuses by type or value."""
    if isinstance(values, dict):
        return type(values["type"], (), {})()  # no list: only its type's name is known here
    return [value["repr"] if isinstance(value, dict) else value for value in values]


def _inside(path: str, function: str, name: str) -> Callable[[Group, RewardConfig, float], Any]:
    """Import the user's file into this process."""
    spec = importlib.util.spec_from_file_location(f"r1_mllm_user_reward_{Path(path).stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = vars(module).get(function)
    if not callable(found):
        raise ValueError(f"reward {name!r}: {path!r} has no function {function!r}")
    scores = adapt(found)
    return lambda group, config, seconds: scores(group, config)
