# SPDX-License-Identifier: Apache-2.0
"""Rows that come and go while others run, each with settings of its own: what a server needs of the engine.

`Engine.generate` answers a list and returns; a `Live` takes prompts at any time, and `advance` is one turn of its loop:
waiting prompts that fit join the running rows, then every row gets a token.

Shape letters: B rows, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import paddle

from ..config import RolloutConfig
from ..records import Prompt
from .decoder import Decoder
from .engine import Engine, Job, Row, Run
from .sampling import Draw, Sampler, row_uniforms

MAX_SAMPLERS = 16
"""Samplers kept at hand; clients choose their settings freely, and each holds two rows of V numbers."""


@dataclass(frozen=True)
class Sampling:
    """How a row's tokens are chosen."""

    temperature: float = 1.0
    """0: the most probable token."""
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


@dataclass
class LiveRow(Row):
    """A completion in the making with its own settings."""

    sampling: Sampling = field(default_factory=Sampling)
    num_top: int | None = None
    """Alternatives to note beside each token's log-probability; None: note nothing."""
    raw: list[float] = field(default_factory=list)
    """Nats under softmax(logits), whatever the temperature; filled when num_top is not None."""
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    """The num_top most probable (id, nats) at each place, best first."""


def live_rows(
    n: int, seed: int, limit: int, sampling: Sampling = Sampling(), num_top: int | None = None
) -> list[LiveRow]:
    """n rows of a prompt: their random numbers are those of the first prompt of `Engine.generate` with this seed."""
    return [
        LiveRow(0, row_uniforms(seed, 0, sample, limit), limit=limit, sampling=sampling, num_top=num_top)
        for sample in range(n)
    ]


class Live(Run):
    """Running rows and a line of waiting prompts; belongs to one thread."""

    def __init__(self, engine: Engine, max_rows: int, max_tokens: int):
        """Args: max_rows: places of the rectangle of rows.  max_tokens: of its cache, prompts and tails together.

        A job that exceeds them runs alone.
        """
        config = dataclasses.replace(engine.config, repetition_penalty=1.0, rollout_batch_rows=max_rows)
        super().__init__(Decoder(engine.model), engine.sampler(True), set(engine.tokenizer.stop_ids), 0, config)
        self.banned_ids = engine.tokenizer.banned_ids
        self.max_rows, self.max_tokens = max_rows, max_tokens
        self.waiting: deque[Job] = deque()
        self._samplers: OrderedDict[Sampling, Sampler] = OrderedDict()

    def join(self, prompt: Prompt, rows: Sequence[LiveRow]) -> Job:
        """Put a prompt at the end of the line; its rows fill as `advance` is called.

        Setting a row's `done` takes it out of the next step.
        """
        job = Job(prompt, list(rows))
        self.waiting.append(job)
        return job

    @paddle.no_grad()
    def advance(self) -> bool:
        """Let waiting prompts join and give every row a token; False: there is nothing to do."""
        self._forget_waiting()
        if not (self.waiting or self._num_live()):
            self._release()
            return False
        if self._wants_regrid(self.waiting):
            self._regrid(self.waiting)
        if self._num_live():
            self._step()
        return True

    def _forget_waiting(self) -> None:
        """Drop jobs that were given up before they began."""
        if any(all(row.done for row in job.rows) for job in self.waiting):
            self.waiting = deque(job for job in self.waiting if not all(row.done for row in job.rows))

    def _release(self) -> None:
        """Give the memory of keys and values back."""
        if self.cache.layers:
            self.grid, self.jobs = [], []
            self.cache, self.decoder.host_step = self.decoder.new_cache(), None

    def _wants_regrid(self, waiting: deque) -> bool:
        """As for a rollout, but who waits joins as soon as there is room: a client is watching."""
        if super()._wants_regrid(deque()):
            return True
        if not waiting:
            return False
        kept = [(job, count) for job, count in zip(self.jobs, self._live_counts(), strict=True) if count]
        return self._fits([*kept, (waiting[0], len(waiting[0].rows))])

    def _fits(self, together: Sequence[tuple[Job, int]]) -> bool:
        samples = max(count for _, count in together)
        prompt = max(len(job.prompt.ids) for job, _ in together)
        tail = max(row.limit for job, _ in together for row in job.rows if not row.done)
        tokens = len(together) * (prompt + samples * tail)
        return len(together) * samples <= self.max_rows and tokens <= self.max_tokens

    def _sampler(self, sampling: Sampling) -> Sampler:
        if sampling not in self._samplers:
            config = RolloutConfig(**dataclasses.asdict(sampling))
            vocab = self.decoder.model.arch.text.vocab_size
            self._samplers[sampling] = Sampler(config, vocab, self.banned_ids)
            while len(self._samplers) > MAX_SAMPLERS:
                self._samplers.popitem(last=False)
        self._samplers.move_to_end(sampling)
        return self._samplers[sampling]

    def _record(self, logits: paddle.Tensor, rows: list[LiveRow | None], seen) -> None:
        """Sample a token for each row that is still going, those of equal settings together."""
        alike: dict[Sampling, list[int]] = {}
        for i, row in enumerate(rows):
            if row is not None and not row.done:
                alike.setdefault(row.sampling, []).append(i)
        for sampling, members in alike.items():
            part = logits if len(members) == len(rows) else paddle.gather(logits, paddle.to_tensor(members))
            self._extend([rows[i] for i in members], part, self._sampler(sampling))

    def _extend(self, rows: list[LiveRow], logits: paddle.Tensor, sampler: Sampler) -> None:
        uniforms = np.array([row.uniforms[len(row.ids)] for row in rows], np.float32)
        draw: Draw = sampler.choose(logits, uniforms, None)
        for i, (row, token, logp) in enumerate(zip(rows, draw.ids.tolist(), draw.logprobs.tolist(), strict=True)):
            if row.num_top is not None:
                _note(row, logits[i].astype("float32").numpy(), token)
            row.take(token, logp, self.stop_ids)


def _note(row: LiveRow, logits: np.ndarray, token: int) -> None:
    """Note the log-probability of a token and of the best alternatives; logits [V] float32."""
    shifted = logits.astype(np.float64) - logits.max()
    logp = shifted - np.log(np.exp(shifted).sum())
    row.raw.append(float(logp[token]))
    best = np.argsort(-logp, kind="stable")[: row.num_top]
    row.top.append([(int(i), float(logp[i])) for i in best])
