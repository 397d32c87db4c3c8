# SPDX-License-Identifier: Apache-2.0
"""The thread that owns the model: requests wait in a bounded line, join the running ones, and get their tokens back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import paddle

from ..records import Prompt
from ..rollout.engine import Engine
from ..rollout.live import Live, LiveRow
from .errors import ApiError
from .text import Writer

log = logging.getLogger(__name__)
POLL_SECONDS = 0.5
MAX_RETRY_SECONDS = 60


@dataclass(frozen=True)
class Token:
    """A token with its log-probability and the alternatives."""

    id: int
    logprob: float
    top: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Piece:
    """What one completion has to add."""

    index: int
    text: str
    tokens: Sequence[Token]
    """Filled when log-probabilities were asked for."""
    finish: str | None
    """stop or length with the last piece."""
    num_tokens: int
    """Written so far, the stop token included."""


@dataclass
class Task:
    """A request under way: `tell` is called from the scheduler's thread with new pieces, or with what went wrong."""

    prompt: Prompt
    rows: list[LiveRow]
    writers: list[Writer]
    tell: Callable[[list[Piece] | ApiError], None]
    streams: bool
    arrived: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    told: list[int] = field(default_factory=list)
    """Tokens of each row that were passed on."""
    closed: list[bool] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    """Not passed on yet."""

    def __post_init__(self) -> None:
        self.told, self.closed = [0] * len(self.rows), [False] * len(self.rows)

    @property
    def started(self) -> bool:
        return any(row.ids for row in self.rows)

    def collect(self) -> bool:
        """Turn new tokens into pieces and pass them on when it is time; True when all rows are done."""
        for i, (row, writer) in enumerate(zip(self.rows, self.writers, strict=True)):
            if self.closed[i] or len(row.ids) == self.told[i]:
                continue
            new = slice(self.told[i], len(row.ids))
            text = writer.feed(row.ids[new], last=row.done)
            row.done = row.done or writer.stopped
            self.told[i], self.closed[i] = len(row.ids), row.done
            finish = None if not row.done else "stop" if row.stopped or writer.stopped else "length"
            tokens = [Token(*noted) for noted in zip(row.ids[new], row.raw[new], row.top[new], strict=False)]
            if text or tokens or finish:
                self.pieces.append(Piece(i, text, tokens, finish, len(row.ids)))
        done = all(self.closed)
        if self.pieces and (self.streams or done):
            pieces, self.pieces = self.pieces, []
            self.tell(pieces)
        return done


@dataclass
class Counts:
    """What /metrics shows; written by the scheduler's thread, but for `refused`."""

    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    refused: int = 0
    """Sent away because the line was full."""
    prompt_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    """From arrival to the last token, summed over finished requests."""


class Scheduler:
    """Runs requests side by side through one model."""

    def __init__(self, engine: Engine, max_rows: int, max_tokens: int, queue_size: int) -> None:
        self.engine, self.max_rows, self.max_tokens, self.queue_size = engine, max_rows, max_tokens, queue_size
        self.counts = Counts()
        self._tasks: list[Task] = []
        self._arrived: list[Task] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """End the thread after its present step."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(seconds)

    @property
    def alive(self) -> bool:
        """Whether requests will be answered."""
        return self._thread.is_alive()

    @property
    def num_waiting(self) -> int:
        """Requests without a token yet."""
        return sum(not task.started for task in [*self._tasks, *self._arrived])

    @property
    def num_running(self) -> int:
        """Requests that have begun."""
        return sum(task.started for task in list(self._tasks))

    def check_room(self) -> None:
        """ApiError 429 when the line is full, 503 when nobody serves it."""
        if not self.alive:
            raise ApiError(503, "the model has stopped; look at the server's log")
        if self.num_waiting >= self.queue_size:
            self.counts.refused += 1
            raise ApiError(429, f"{self.queue_size} requests wait already", "queue_full", None, self._retry_after())

    def _retry_after(self) -> int:
        """Seconds a request has taken on average, at least 1."""
        mean = self.counts.seconds / max(1, self.counts.finished)
        return max(1, min(MAX_RETRY_SECONDS, round(mean)))

    def submit(self, task: Task) -> None:
        """Put a request at the end of the line."""
        with self._changed:
            self.check_room()
            self._arrived.append(task)
            self._changed.notify()

    def cancel(self, task: Task) -> None:
        """Give a request up; its rows leave after the present step."""
        task.cancelled = True
        with self._changed:
            self._changed.notify()

    def _run(self) -> None:
        paddle.set_device(paddle.get_device())  # the choice of device belongs to a thread
        live = self._new_live()
        while True:
            with self._changed:
                while not (self._arrived or self._tasks or self._stopping):
                    self._changed.wait(POLL_SECONDS)
                arrived, self._arrived = self._arrived, []
                self._tasks += arrived
            if self._stopping:
                self._fail("the server is stopping", 503)
                return
            for task in arrived:
                live.join(task.prompt, task.rows)
            try:
                self._turn(live)
            except Exception as error:  # out of memory and the like: these requests fail, the next ones may not
                log.exception("a step of the model failed")
                self._fail(f"the model failed ({type(error).__name__})", 500)
                live = self._new_live()

    def _new_live(self) -> Live:
        return Live(self.engine, self.max_rows, self.max_tokens)

    def _turn(self, live: Live) -> None:
        for task in self._tasks:
            if task.cancelled:
                for row in task.rows:
                    row.done = True
        self.counts.cancelled += sum(task.cancelled for task in self._tasks)
        self._tasks = [task for task in self._tasks if not task.cancelled]
        before = sum(len(row.ids) for task in self._tasks for row in task.rows)
        live.advance()
        self.counts.steps += 1
        self.counts.generated_tokens += sum(len(row.ids) for task in self._tasks for row in task.rows) - before
        going = []
        for task in self._tasks:
            if task.collect():
                self._finish(task)
            else:
                going.append(task)
        self._tasks = going
        if not going:
            live.advance()  # nothing is left: memory is given back

    def _finish(self, task: Task) -> None:
        self.counts.finished += 1
        self.counts.prompt_tokens += len(task.prompt.ids)
        self.counts.seconds += time.monotonic() - task.arrived

    def _fail(self, message: str, status: int) -> None:
        with self._changed:
            tasks, self._tasks, self._arrived = [*self._tasks, *self._arrived], [], []
        self.counts.failed += len(tasks)
        for task in tasks:
            task.tell(ApiError(status, message))
