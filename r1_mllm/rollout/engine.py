# SPDX-License-Identifier: Apache-2.0
"""Completions for prompts: prompts are read once, rows that stop leave, waiting prompts take their place.

Shape letters: B groups (a group is a distinct prompt), S samples per group, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import paddle

from ..config import RolloutConfig
from ..distributed import heartbeat
from ..models.qwen_vl import QwenVL
from ..models.reading import Kept
from ..models.trace import Trace
from ..records import Completion, Prompt
from .admission import CacheBudget, by_expected_length
from .cache import Cache, Prefill
from .decoder import Decoder, Ends
from .distinct import Distinct
from .prefill import read
from .sampling import Draw, Sampler, row_uniforms

DEAD_SHARE = 0.25
"""Rows are regrouped once this share of them has stopped; compiled steps leave those out, and regroup for who waits."""

MOST_STEPS = 16
"""Compiled decode steps between two looks at the rows."""


@dataclass
class Row:
    """One completion in the making."""

    prompt: int
    """Index of the prompt in the caller's list."""
    uniforms: np.ndarray
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False
    """By a stop token."""
    done: bool = False
    limit: int = 1
    """Tokens at most."""

    def take(self, token: int, logp: float, stop_ids: Collection[int]) -> None:
        """Append a token to a row that is going."""
        self.ids.append(token)
        self.logprobs.append(logp)
        self.stopped = token in stop_ids
        self.done = self.stopped or len(self.ids) >= self.limit


@dataclass
class Job:
    """A distinct prompt and the rows that want completions of it."""

    prompt: Prompt
    rows: list[Row]
    kept: Kept | None = None
    """Its reading, where an update wants to go on from it."""
    trace: Trace | None = None
    """What its completions' steps leave behind, likewise."""
    whole: bool = True
    """Whether these are all rows that want completions of the prompt."""

    @property
    def one_group(self) -> bool:
        """Whether its rows are those of one of the caller's prompts, all of them."""
        return self.whole and len({row.prompt for row in self.rows}) == 1

    def expected(self, lengths: Sequence[float | None]) -> float | None:
        """The largest of the expected lengths of the caller's prompts merged here; None when none is known."""
        return max((known for row in self.rows if (known := lengths[row.prompt]) is not None), default=None)

    def parts(self, budget: CacheBudget) -> list[Job]:
        """Cut a job whose rows do not fit into memory together; its prompt is then read several times."""
        most = budget.rows_of(len(self.prompt.ids), len(self.rows))
        if most >= len(self.rows):
            return [self]
        starts = range(0, len(self.rows), most)
        return [Job(self.prompt, self.rows[start : start + most], whole=False) for start in starts]


def _jobs(prompts: Sequence[Prompt], seed: int, length: int, limits: np.ndarray) -> tuple[list[Job], list[list[Row]]]:
    """Merge equal prompts; also return each caller's prompt's rows.  limits [prompts, n]: most tokens of each."""
    jobs: list[Job] = []
    per_prompt, distinct = [], Distinct()
    for i, prompt in enumerate(prompts):
        rows = [Row(i, row_uniforms(seed, i, k, length), limit=limit) for k, limit in enumerate(limits[i].tolist())]
        number = distinct.number(prompt.ids.tobytes(), prompt.pixels)
        if number == len(jobs):
            jobs.append(Job(prompt, []))
        jobs[number].rows.extend(rows)
        per_prompt.append(rows)
    return jobs, per_prompt


class Engine:
    """Samples completions from a model; holds no state between calls."""

    def __init__(self, model: QwenVL, tokenizer, config: RolloutConfig):
        """Args: tokenizer: a processing.Tokenizer (decode, stop_ids, banned_ids)."""
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.peak_cache_bytes = 0
        """Keys and values of the latest call at their largest."""

    def sampler(self, greedy: bool) -> Sampler:
        """The sampler of one call."""
        return Sampler(self.config, self.model.arch.text.vocab_size, self.tokenizer.banned_ids, greedy)

    def limits(self, num_prompts: int, n: int, length: int) -> np.ndarray:
        """The most tokens of each row of one call, [prompts, n]; benchmarks say how long each is."""
        return np.full([num_prompts, n], length)

    @paddle.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        n: int,
        seed: int,
        greedy: bool = False,
        max_new_tokens: int | None = None,
        expected: Sequence[float | None] | None = None,
        keep: dict[int, Kept] | None = None,
    ) -> list[list[Completion]]:
        """Sample n completions of each prompt.

        Args:
            seed: with a row's place (prompt index, sample number) it fixes that row's random numbers, whatever else
                is in the batch.
            greedy: take the most probable token instead of sampling.
            max_new_tokens: overrides max_completion_length.
            expected: tokens of a prompt's completions as far as they are known; the longest begin first.
            keep: takes, by number in `prompts`, what an update of the same weights needs not to read a prompt again
                (models/reading.py): its activations stay in memory until then.

        Returns:
            For each prompt its n completions, in order.
        """
        if n < 1 or not prompts:
            raise ValueError(f"generate needs at least one prompt and n >= 1, got {len(prompts)} prompts and n={n}")
        length = max_new_tokens or self.config.max_completion_length
        jobs, per_prompt = _jobs(prompts, seed, length, self.limits(len(prompts), n, length))
        decoder = Decoder(self.model, self.config.cache_dtype)
        run = Run(decoder, self.sampler(greedy), set(self.tokenizer.stop_ids), length, self.config)
        run.keeps = keep is not None
        order = range(len(jobs)) if expected is None else by_expected_length([job.expected(expected) for job in jobs])
        parts = [part for i in order for part in jobs[i].parts(run.budget)]
        run.complete(parts)
        for job in parts:
            if job.trace is not None:
                job.trace.finish([len(row.ids) for row in job.rows])
        if keep is not None:
            keep.update((row.prompt, job.kept) for job in parts if job.kept is not None for row in job.rows)
        self.peak_cache_bytes = run.peak_cache_bytes
        return [
            [self._completion(row, prompt.opening) for row in rows]
            for prompt, rows in zip(prompts, per_prompt, strict=True)
        ]

    def _completion(self, row: Row, opening: str) -> Completion:
        ids = np.array(row.ids, np.int64)
        text = opening + self.tokenizer.decode(ids, skip_special_tokens=True)
        return Completion(ids, np.array(row.logprobs, np.float32), text, row.stopped)


class Run:
    """One call's rows, their rectangle and their cache."""

    def __init__(self, decoder: Decoder, sampler: Sampler, stop_ids: set[int], length: int, config: RolloutConfig):
        self.decoder, self.sampler, self.stop_ids, self.length, self.config = decoder, sampler, stop_ids, length, config
        self.cache: Cache = decoder.new_cache()
        limit = config.rollout_cache_mb
        self.budget = CacheBudget.of(decoder.arch, self.cache.dtype, length, limit, self.cache.block)
        self._stops = np.array(sorted(stop_ids), np.int64)
        self.peak_cache_bytes = 0
        self.jobs: list[Job] = []
        self.grid: list[list[Row | None]] = []
        """[B][S]: None where a group has no row for this place."""
        self.next_positions = np.zeros([0], np.int64)
        self.seen: paddle.Tensor | None = None
        self.keeps = False

    def complete(self, jobs: Sequence[Job]) -> None:
        """Fill every row of every job."""
        waiting = deque(jobs)
        while waiting or self._num_live():
            heartbeat.alive()
            if self._wants_regrid(waiting):
                self._regrid(waiting)
            if self._num_live():
                self._advance(bool(waiting))

    def _num_live(self) -> int:
        return sum(self._live_counts())

    def _live_counts(self) -> list[int]:
        return [sum(row is not None and not row.done for row in line) for line in self.grid]

    def _wants_regrid(self, waiting: deque) -> bool:
        """Regroup when nothing is left to do, the tail is full, or enough places would be saved or refilled."""
        counts = self._live_counts()
        live = sum(counts)
        if not live or self.cache.full:
            return True
        places = sum(len(line) for line in self.grid)
        rectangle = sum(count > 0 for count in counts) * max(counts)
        kept = [(job, count) for job, count in zip(self.jobs, counts, strict=True) if count]
        joins = bool(waiting) and self._fits([*kept, (waiting[0], len(waiting[0].rows))])
        if self.decoder.on_host and not joins:
            return False  # compiled steps leave out what has stopped
        return min(rectangle, live if joins else places) <= (1 - DEAD_SHARE) * places

    def _fits(self, together: Sequence[tuple[Job, int]]) -> bool:
        """Say whether jobs with so many rows each may be decoded together."""
        counts = [count for _, count in together]
        lengths = [len(job.prompt.ids) for job, _ in together]
        return sum(counts) <= self.config.rollout_batch_rows and self.budget.fits(lengths, max(counts))

    def _admit(self, waiting: deque, kept: Sequence[tuple[Job, int]]) -> list[Job]:
        """Take those waiting, in order, that fit beside the jobs and rows kept; one always where nothing is kept."""
        together, num_kept = list(kept), len(kept)
        while waiting:
            candidate = (waiting[0], len(waiting[0].rows))
            if together and not self._fits([*together, candidate]):
                break
            together.append(candidate)
            waiting.popleft()
        return [job for job, _ in together[num_kept:]]

    def _regrid(self, waiting: deque) -> None:
        """Drop stopped rows, close the gaps, let waiting prompts join."""
        old_samples = len(self.grid[0]) if self.grid else 0
        lines = []  # (old group, [(old row number, row)])
        for i_group, line in enumerate(self.grid):
            live = [(i_group * old_samples + i, row) for i, row in enumerate(line) if row is not None and not row.done]
            if live:
                lines.append((i_group, live))
        kept = np.array([group for group, _ in lines], np.int64)
        admitted = self._admit(waiting, [(self.jobs[group], len(live)) for group, live in lines])
        self.jobs = [self.jobs[group] for group in kept] + admitted
        lines += [(-1, [(-1, row) for row in job.rows]) for job in admitted]
        if not lines:
            self.grid = []
            return
        samples = max(len(live) for _, live in lines)
        sources = np.full([len(lines), samples], -1, np.int64)
        self.grid = [[None] * samples for _ in lines]
        for i_group, (_, live) in enumerate(lines):
            for i_row, (source, row) in enumerate(live):
                sources[i_group, i_row] = source
                self.grid[i_group][i_row] = row
        added, logits = None, None
        if admitted:
            added, logits = self._read(admitted)
            if self.decoder.casts:
                added.kv = [kv.astype(self.cache.dtype) for kv in added.kv]
        self.decoder.host_step = None  # it would keep the old cache's memory beside the new one's
        self.decoder.traces = [job.trace for job in self.jobs]
        self.cache.regrid(sources, kept, added)
        self.peak_cache_bytes = max(self.peak_cache_bytes, self.cache.bytes())
        self.next_positions = np.array([job.prompt.next_position for job in self.jobs], np.int64)
        if self.sampler.needs_history:
            self.seen = self._history()
        if admitted:
            self._first_tokens(logits, len(kept))

    def _read(self, jobs: Sequence[Job]) -> tuple[Prefill, paddle.Tensor]:
        """As `prefill.read`; the jobs keep their readings."""
        kept: list[Kept | None] = []
        found = read(
            self.decoder, [job.prompt for job in jobs], self.config.prefill_tokens, kept if self.keeps else None
        )
        for job, reading in zip(jobs, kept, strict=self.keeps):
            job.kept = reading
            if reading is not None and self.decoder.leaves_traces and job.one_group and self.length > 1:
                reading.prompt.trace = job.trace = Trace(self.decoder.arch, len(job.rows) * (self.length - 1))
        return found

    def _history(self) -> paddle.Tensor:
        """[B*S, V] float32 0 or 1: ids of the prompt and of the completion so far."""
        vocab = self.decoder.arch.vocab_size
        seen = np.zeros([len(self.grid), len(self.grid[0]), vocab], np.float32)
        for line, job, rows in zip(seen, self.jobs, self.grid, strict=True):
            line[:, job.prompt.ids] = 1
            for flags, row in zip(line, rows, strict=True):
                if row is not None:
                    flags[row.ids] = 1
        return paddle.to_tensor(seen.reshape([-1, vocab]))

    def _first_tokens(self, logits: paddle.Tensor, first_group: int) -> None:
        """Sample the first token of the rows of groups from first_group on; logits [groups, V]."""
        rows = [row for line in self.grid[first_group:] for row in line]
        samples = len(self.grid[0])
        index = np.repeat(np.arange(len(self.grid) - first_group), samples)
        seen = None if self.seen is None else self.seen[first_group * samples :]
        self._record(paddle.gather(logits, paddle.to_tensor(index)), rows, seen)

    def _advance(self, waits: bool) -> None:
        """Give every row its next tokens: one, or as many as compiled steps take before somebody must look.

        Args: waits: whether there are prompts that would take the places of rows that stop.
        """
        going = [row for line in self.grid for row in line if row is not None and not row.done]
        free = self.cache.layers[0].tail_v.shape[1] - self.cache.column
        num = min(free, MOST_STEPS, max(row.limit - len(row.ids) for row in going))
        if num > 1 and self.decoder.draws and self.sampler.draws_plainly:
            places = len(self.grid) * len(self.grid[0])
            self._take_steps(num, min(int((1 - DEAD_SHARE) * places), len(going) - 1) if waits else 0)
        else:
            self._step()

    def _take_steps(self, most: int, least: int) -> None:
        """Take up to `most` compiled steps; they end when no more than `least` rows go on."""
        rows, ids, positions = self._newest()
        uniforms = np.full([len(rows), most], 0.5, np.float32)
        left = np.zeros([len(rows)], np.int64)
        for i, row in enumerate(rows):
            if row is not None and not row.done:
                given = row.uniforms[len(row.ids) : len(row.ids) + most]
                uniforms[i, : len(given)], left[i] = given, row.limit - len(row.ids)
        ends = Ends(self._stops, left, least)
        drawn = self.decoder.steps(ids, positions, self.cache, self.sampler, np.ascontiguousarray(uniforms.T), ends)
        for row, tokens, logps in zip(rows, *(part.T.tolist() for part in drawn), strict=True):
            for token, logp in zip(tokens, logps, strict=True):
                if row is None or row.done:
                    break
                row.take(token, logp, self.stop_ids)

    def _newest(self) -> tuple[list[Row | None], np.ndarray, np.ndarray]:
        """All places' rows, their newest tokens and those's positions."""
        rows = [row for line in self.grid for row in line]
        counts = np.array([len(row.ids) if row is not None else 1 for row in rows], np.int64)
        ids = np.array([row.ids[-1] if row is not None else 0 for row in rows], np.int64)
        return rows, ids, np.repeat(self.next_positions, len(self.grid[0])) + counts - 1

    def _step(self) -> None:
        rows, ids, positions = self._newest()
        if self.seen is not None:
            flags = paddle.ones([len(rows), 1])
            self.seen = paddle.put_along_axis(self.seen, paddle.to_tensor(ids).reshape([-1, 1]), flags, 1)
        going = np.array([row is not None and not row.done for row in rows], np.int64)
        self._record(self.decoder.step(ids, positions, self.cache, going), rows, self.seen)

    def _record(self, logits: paddle.Tensor, rows: list[Row | None], seen) -> None:
        """Sample a token for each row that is still going."""
        going = [row is not None and not row.done for row in rows]
        uniforms = np.array(
            [row.uniforms[len(row.ids)] if alive else 0.5 for row, alive in zip(rows, going, strict=True)], np.float32
        )
        draw: Draw = self.sampler.choose(logits, uniforms, seen)
        for row, alive, token, logp in zip(rows, going, draw.ids.tolist(), draw.logprobs.tolist(), strict=True):
            if alive:
                row.take(token, logp, self.stop_ids)
