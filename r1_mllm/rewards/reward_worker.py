# SPDX-License-Identifier: Apache-2.0
"""A user's reward file in a process of its own that can be killed: run by its path, the worker of user_rewards.py.

Frames: four bytes of length, little endian, then JSON.  The first request names the file; each further one has an id
and a group, and gets one reply with that id: {"values": ...} or {"error": traceback}.  What the user's code prints goes
to stderr, which the client reads; its standard streams are not the protocol's, and a forked copy cannot answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import json
import os
import signal
import struct
import sys
import traceback
from typing import Any, BinaryIO

MAX_REPLY_BYTES = 1 << 20
FILE_BYTES = 16 << 20
PROTOCOL_FD = 198
"""Far above what user code opens or closes by habit."""


def send(stream: BinaryIO, message: Any) -> None:
    """Write one frame."""
    body = json.dumps(message).encode("ascii")
    stream.write(struct.pack("<I", len(body)) + body)
    stream.flush()


def receive(stream: BinaryIO) -> Any | None:
    """Read one frame; None at the end of the stream."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    return json.loads(stream.read(struct.unpack("<I", head)[0]))


def load(path: str, name: str) -> Any:
    """Import a function from a file."""
    spec = importlib.util.spec_from_file_location("r1_mllm_user_reward", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found = vars(module).get(name)
    if not callable(found):
        raise ValueError(f"{path!r} has no function {name!r}")
    return found


def listed(values: Any) -> Any:
    """Turn a reward's result into what JSON holds: a list of its members, each a number, None or its repr."""
    if isinstance(values, str | bytes) or not hasattr(values, "__len__") or not hasattr(values, "__getitem__"):
        return {"type": type(values).__name__}
    if isinstance(values, dict):
        return {"type": "dict"}
    return [_member(value) for value in values]


def _member(value: Any) -> Any:
    if value is None:
        return None
    try:
        return float(value) if not isinstance(value, str | bytes) else {"repr": repr(value)[:200]}
    except (TypeError, ValueError, OverflowError):
        return {"repr": repr(value)[:200]}


def _confine(memory_mb: int) -> None:
    """Set limits, and die with the process that started this one."""
    import resource  # not on every system the client runs on

    with contextlib.suppress(OSError, AttributeError):
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    if memory_mb > 0:
        resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))


def _call(scores: Any, decode: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Score one group; whatever the user's code raises becomes the reply."""
    try:
        arguments = [decode(value) for value in request["arguments"]]
        found = scores(*arguments)
        return {"values": listed(found.values), "parts": {name: listed(part) for name, part in found.parts.items()}}
    except BaseException as error:  # SystemExit and KeyboardInterrupt too: they are the user's code's, not ours
        frames = traceback.extract_tb(error.__traceback__)
        where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        return {"error": f"{type(error).__name__}: {str(error)[:2000]}{where}"}


def main(parent: int, memory_mb: int) -> None:
    """Serve until the client goes away."""
    os.dup2(0, PROTOCOL_FD)
    os.dup2(1, PROTOCOL_FD + 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    requests, replies = os.fdopen(PROTOCOL_FD, "rb"), os.fdopen(PROTOCOL_FD + 1, "wb")
    start = receive(requests)
    _confine(memory_mb)
    if os.getppid() != parent:
        return
    owner = os.getpid()
    try:
        sys.path[:] = start["sys_path"]
        decode = importlib.import_module("r1_mllm.rewards.user_rewards").decode  # the classes that users' files know
        function = load(start["path"], start["function"])
        scores = importlib.import_module("r1_mllm.rewards.reward_files").adapt(function)
    except BaseException:  # as in _call
        send(replies, {"id": 0, "error": traceback.format_exc()[-8000:]})
        return
    send(replies, {"id": 0})
    while (request := receive(requests)) is not None:
        reply = {"id": request["id"], **_call(scores, decode, request)}
        if os.getpid() != owner:
            os._exit(0)
        send(replies, reply)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
