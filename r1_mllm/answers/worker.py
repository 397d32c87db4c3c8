# SPDX-License-Identifier: Apache-2.0
"""math-verify in a process of its own that can be killed: this file is the client and, run by its path, the worker.

sympy may hang on or blow up with what a model writes, and math-verify's own limits are signals, which work only in a
main thread and cancel other people's alarms.  The worker gets one JSON line per comparison, with a request id, and is
killed and started again when it misses its deadline, outgrows its memory or dies; that costs one answer.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Literal

Verdict = Literal["equal", "different", "timeout", "crash"]

_START_SECONDS = 120.0
_MAX_STARTS = 3
_CACHE_ENTRIES = 8192


class MathVerifier:
    """Compare two LaTeX expressions in a killable worker; may be called from any thread.

    `timeouts`, `crashes` and `starts` count since the object was made.
    """

    def __init__(self, timeout: float = 2.0, memory_mb: int = 2048):
        self.timeout, self.memory_mb = timeout, memory_mb
        self.timeouts = self.crashes = self.starts = 0
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._owner = os.getpid()
        self._unread = b""
        self._request = 0
        self._known: OrderedDict[tuple[str, str], Verdict] = OrderedDict()
        atexit.register(self.close)

    def verify(self, gold: str, answer: str) -> Verdict:
        """Tell whether `answer` equals `gold` (both LaTeX without dollar signs)."""
        with self._lock:
            if (gold, answer) in self._known:
                self._known.move_to_end((gold, answer))
                return self._known[gold, answer]
            verdict = self._ask(gold, answer)
            if verdict in ("equal", "different"):
                self._known[gold, answer] = verdict
                if len(self._known) > _CACHE_ENTRIES:
                    self._known.popitem(last=False)
            return verdict

    def close(self) -> None:
        """End the worker; the next comparison starts a new one."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()

    def _ask(self, gold: str, answer: str) -> Verdict:
        self._ensure_started()
        self._request += 1
        request = {"id": self._request, "gold": gold, "answer": answer, "seconds": self.timeout}
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            reply = self._reply(self._request, time.monotonic() + self.timeout)
        except (BrokenPipeError, EOFError):
            self.crashes += 1
            self.close()
            return "crash"
        if reply is None:
            self.timeouts += 1
            self.close()
            return "timeout"
        if reply["verdict"] == "crash":
            self.crashes += 1
        return reply["verdict"]

    def _ensure_started(self) -> None:
        if self._owner != os.getpid():  # a forked child must not talk to its parent's worker
            self._owner, self._process = os.getpid(), None
        for _ in range(_MAX_STARTS):
            if self._process is not None:
                return
            self._start()
        if self._process is None:
            raise RuntimeError(f"the math-verify worker died {_MAX_STARTS} times while starting; is memory short?")

    def _start(self) -> None:
        command = [sys.executable, "-I", str(Path(__file__).resolve()), str(self.memory_mb)]
        self._unread, self.starts = b"", self.starts + 1
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            reply = self._reply(0, time.monotonic() + _START_SECONDS)
        except EOFError:
            reply = None
        if reply is None:
            self.close()
        elif reply["verdict"] != "ready":
            self.close()
            raise RuntimeError(f"the math-verify worker cannot start: {reply['verdict']}; pip install math-verify")

    def _reply(self, request: int, deadline: float) -> dict | None:
        """Read lines until the one for this request; None at the deadline, EOFError when the worker is gone."""
        handle = self._process.stdout.fileno()
        while True:
            while b"\n" in self._unread:
                line, self._unread = self._unread.split(b"\n", 1)
                reply = json.loads(line)
                if reply["id"] == request:
                    return reply
            seconds = deadline - time.monotonic()
            if seconds <= 0 or not select.select([handle], [], [], seconds)[0]:
                return None
            chunk = os.read(handle, 65536)
            if not chunk:
                raise EOFError
            self._unread += chunk


@functools.cache
def verifier(timeout: float) -> MathVerifier:
    """Give this process's verifier for a time limit; it starts its worker when first asked."""
    return MathVerifier(timeout)


def _compare(gold: str, answer: str) -> Verdict:
    """Parse both sides as LaTeX only: without an anchor math-verify would fall back to a text's last number."""
    from latex2sympy2_extended import NormalizationConfig  # in the worker only
    from math_verify import LatexExtractionConfig, parse, verify

    spelling = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
    )
    config = [LatexExtractionConfig(normalization_config=spelling)]
    parsed = [
        parse(f"${text}$", extraction_config=config, fallback_mode="no_fallback", parsing_timeout=None)
        for text in (gold, answer)
    ]
    if not all(parsed):
        return "different"
    return "equal" if verify(*parsed, timeout_seconds=None) else "different"


def _serve(replies) -> None:
    for line in sys.stdin:
        request = json.loads(line)
        # The default action of the alarm ends the process even inside one long C call, whatever became of the parent.
        signal.setitimer(signal.ITIMER_REAL, request["seconds"] + 1.0)
        try:
            verdict = _compare(request["gold"], request["answer"])
        except (MemoryError, RecursionError):
            verdict = "crash"
        except Exception:  # sympy raises nearly anything on untrusted text; such an answer equals nothing
            verdict = "different"
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(json.dumps({"id": request["id"], "verdict": verdict}) + "\n")


def _main(memory_mb: int) -> None:
    import logging
    import resource  # not on every system the client runs on

    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a stray print must not enter the protocol
    logging.disable()  # math-verify logs whole answers
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    try:
        _compare("\\frac{\\sqrt{2}}{2} + x^{2}", "x^{2} + \\frac{1}{\\sqrt{2}}")  # loads what sympy loads late
    except ImportError as error:
        replies.write(json.dumps({"id": 0, "verdict": str(error)}) + "\n")
        return
    replies.write(json.dumps({"id": 0, "verdict": "ready"}) + "\n")
    _serve(replies)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
