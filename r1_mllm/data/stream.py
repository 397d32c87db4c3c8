# SPDX-License-Identifier: Apache-2.0
"""The order in which examples are seen: a permutation per epoch, shared out to ranks, resumable at any position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


class Stream:
    """Batches of example numbers for one rank, without end.

    All ranks walk the same sequence: epoch 0 in its own order, epoch 1 in another one, and so on.  A step takes the
    next batch_size * world of it and rank r gets the r-th part, so ranks never share an example, every example comes
    once per epoch, and a step may span two epochs.  The position does not depend on the number of ranks: a run that
    resumes on fewer or more of them goes on with the examples nobody has seen.
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        """Start at the beginning of epoch 0; batch_size is per rank."""
        if num_examples < 1:
            raise ValueError("there is no example to train on: the data set is empty")
        if batch_size < 1 or not 0 <= rank < world:
            raise ValueError(f"batch_size {batch_size} must be at least 1 and rank {rank} below world {world}")
        self.num_examples, self.batch_size = num_examples, batch_size
        self.seed, self.rank, self.world = seed, rank, world
        self._epoch, self._index = 0, 0
        self._order_epoch, self._order = -1, np.empty(0, np.int64)

    @property
    def epoch(self) -> float:
        """Epochs walked so far, all ranks together, with the part of the running one."""
        return self._epoch + self._index / self.num_examples

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every example has come once (the last one may reach into the next epoch)."""
        return -(-self.num_examples // (self.batch_size * self.world))

    def next(self) -> list[int]:
        """Example numbers of this rank's next batch."""
        return self.draw([self.batch_size] * self.world)

    def draw(self, counts: Sequence[int]) -> list[int]:
        """This rank's next counts[rank] example numbers; every rank passes the same list and walks on by its sum."""
        drawn = self._take(sum(counts))
        start = sum(counts[: self.rank])
        return drawn[start : start + counts[self.rank]]

    def peek(self) -> list[int]:
        """What `next` would give, without walking on."""
        here = self._epoch, self._index
        coming = self.next()
        self._epoch, self._index = here
        return coming

    __next__ = next

    def __iter__(self) -> Stream:
        return self

    def state(self) -> dict[str, int]:
        """The position, the same on every rank; JSON-ready."""
        return {"epoch": self._epoch, "index": self._index, "seed": self.seed, "num_examples": self.num_examples}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on from a position; another seed or number of examples is an error, another world is not."""
        for name, here in (("seed", self.seed), ("num_examples", self.num_examples)):
            if state[name] != here:
                raise ValueError(f"cannot resume the data stream: {name} was {state[name]} and is now {here}")
        if state["epoch"] < 0 or not 0 <= state["index"] < self.num_examples:
            raise ValueError(f"cannot resume the data stream: no position {dict(state)}")
        self._epoch, self._index = state["epoch"], state["index"]

    def _take(self, num: int) -> list[int]:
        drawn: list[int] = []
        while len(drawn) < num:
            part = self._epoch_order()[self._index : self._index + num - len(drawn)]
            drawn.extend(part.tolist())
            self._index += len(part)
            if self._index == self.num_examples:
                self._epoch, self._index = self._epoch + 1, 0
        return drawn

    def _epoch_order(self) -> np.ndarray:
        """[num_examples] int64 permutation of the running epoch."""
        if self._order_epoch != self._epoch:
            self._order_epoch, self._order = self._epoch, permutation(self.num_examples, self.seed, self._epoch)
        return self._order


def permutation(num: int, seed: int, epoch: int) -> np.ndarray:
    """[num] int64: a random order that depends on seed and epoch only.

    Sorts raw Philox output, whose values numpy promises to keep; it does not promise that for its shuffles.
    """
    keys = np.random.Philox(key=[seed % 2**64, epoch]).random_raw(num)
    return np.argsort(keys, kind="stable").astype(np.int64)
