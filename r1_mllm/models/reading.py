# SPDX-License-Identifier: Apache-2.0
"""Prompts that are read once, to sample from and to learn: the graph of the pass waits for what the completions send.

Until the next update the sampler's weights are the policy's, so the pass that fills the sampler's cache is also the
first part of the policy's own forward pass.  Completions take its keys and values as leaves of their graph; when the
backward passes over them are done, the gradients of those leaves go on into the prompts and their pictures.

Shape letters: P prompt tokens, K key/value heads, D head size, C hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import paddle

from . import team, threads
from .qwen_vl import QwenVL
from .trace import Trace


@dataclass
class ReadPrompt:
    """What completions need of their prompt."""

    kv: list[paddle.Tensor]
    """Per layer, keys and values after rotary [P, 2*K*D]."""
    last: paddle.Tensor
    """[1, C] normed state of the last token: it predicts the first one of every completion."""
    trace: Trace | None = None
    """What sampling its completions left behind, if it did."""

    @property
    def tensors(self) -> list[paddle.Tensor]:
        """All of them."""
        return [*self.kv, self.last]

    def leaves(self) -> ReadPrompt:
        """The same numbers in the same memory, at the root of another graph."""
        *kv, last = (_leaf(tensor) for tensor in self.tensors)
        return ReadPrompt(kv, last, self.trace)


def _leaf(tensor: paddle.Tensor) -> paddle.Tensor:
    leaf = tensor.detach()
    leaf.stop_gradient = tensor.stop_gradient
    return leaf


class Reading:
    """A pass over prompts by one model of a team; its graph can be gone back through once."""

    def __init__(self, member: QwenVL, prompts: Sequence[ReadPrompt]):
        self.member, self.prompts = member, list(prompts)
        self.gradients: dict[int, paddle.Tensor] = {}
        """Number of a tensor of all the prompts' -> what has arrived for it."""

    def receive(self, number: int, leaves: ReadPrompt) -> None:
        """Add the gradients that a backward pass left on leaves of prompt `number`."""
        first = sum(len(prompt.tensors) for prompt in self.prompts[:number])
        for i, leaf in enumerate(leaves.tensors, start=first):
            if leaf.grad is not None:
                known = self.gradients.get(i)
                self.gradients[i] = leaf.grad if known is None else known + leaf.grad

    def backward(self) -> None:
        """Leave on the member's parameters what has arrived, and let the graph go."""
        tensors = [tensor for prompt in self.prompts for tensor in prompt.tensors]
        numbers = sorted(self.gradients)
        if numbers:
            paddle.autograd.backward([tensors[i] for i in numbers], [self.gradients[i] for i in numbers])
        self.prompts, self.gradients = [], {}


@dataclass(frozen=True)
class Kept:
    """A prompt of a reading."""

    reading: Reading
    number: int

    @property
    def prompt(self) -> ReadPrompt:
        """The tensors; gone after `Reading.backward`."""
        return self.reading.prompts[self.number]

    @property
    def alive(self) -> bool:
        """Whether the graph is still there."""
        return bool(self.reading.prompts)

    @property
    def traced(self) -> bool:
        """Whether what sampling its completions left behind is still there."""
        return self.alive and self.prompt.trace is not None and self.prompt.trace.is_there


def go_back(model: QwenVL, used: Iterable[tuple[Kept, ReadPrompt]], accumulated: Callable[[], None]) -> None:
    """Carry the gradients of leaves into the prompts they stand for, and add up what that gives on the model.

    Args:
        model: whose members read the prompts.
        used: prompts, each with leaves that a backward pass was made from.
        accumulated: called when new gradients stand on the model.
    """
    readings: dict[int, Reading] = {}
    for kept, leaves in used:
        readings[id(kept.reading)] = kept.reading
        kept.reading.receive(kept.number, leaves)
    lanes: dict[int, list[Reading]] = {}
    for reading in readings.values():
        lanes.setdefault(id(reading.member), []).append(reading)

    def lane(own: list[Reading]) -> None:
        for reading in own:
            reading.backward()

    threads.run(lane, list(lanes.values()))
    if lanes:
        team.gather(model)
        accumulated()
