# SPDX-License-Identifier: Apache-2.0
"""AdamW with float32 state, decay groups, global-norm clipping, and learning-rate schedules.

Weights kept in bfloat16 or float16 have float32 masters: gradients are summed into the masters' `.grad`, the step is
taken on the masters, and the weights are their rounding.  Every array of the state has a structured name.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import paddle
from paddle import _C_ops

from ..config import OptimizerConfig
from ..distributed import collectives
from . import state_file
from .state_file import STEP, State

Moments = tuple[paddle.Tensor, paddle.Tensor]


def learning_rate(step: int, num_steps: int, config: OptimizerConfig) -> float:
    """Give the rate of step `step` (0-based) of `num_steps`: linear warm-up to the full rate, then the schedule.

    The last step of linear and cosine still has a small rate; the first of a warm-up is not 0.
    """
    warmup = config.warmup_steps or math.ceil(config.warmup_ratio * num_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(num_steps - warmup, 1)
    share = {
        "constant": 1.0,
        "linear": max(0.0, 1.0 - done),
        "cosine": 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0))),
    }[config.lr_scheduler_type]
    return config.learning_rate * share


class Rule:
    """AdamW's step on one array after another, with what one step's arrays have in common."""

    def __init__(self, config: OptimizerConfig, num_steps: int, rate: float) -> None:
        """Args: num_steps: taken so far, this one included.  rate: learning rate."""
        self.config = config
        self.rate = paddle.to_tensor([rate], "float32")
        betas = config.adam_beta1, config.adam_beta2
        self.powers = [paddle.to_tensor([beta**num_steps], "float32") for beta in betas]

    def __call__(self, leaf: paddle.Tensor, gradient: paddle.Tensor, moments: Moments, decayed: bool) -> None:
        """Change a float32 array and its two moments in place."""
        config = self.config
        # fmt: off
        _C_ops.adamw_(
            leaf, gradient, self.rate, *moments, None, *self.powers, None, None,
            config.adam_beta1, config.adam_beta2, config.adam_epsilon, 1.0, config.weight_decay,
            decayed, False, 1000, False,
            True,  # use_global_beta_pow: leaves the powers alone, so all parameters share them
            False,
        )
        # fmt: on


class Clippable(Protocol):
    """What `clip_and_count` needs of an optimizer."""

    config: OptimizerConfig
    num_steps: int

    def scale_gradients(self, factor: float) -> None:
        """Multiply every summed gradient in place."""


def clip_and_count(optimizer: Clippable, rate: float, grad_norm: float) -> Rule:
    """Clip the summed gradients to max_grad_norm, count the step that begins, and give its rule.

    Args:
        rate: learning rate.
        grad_norm: global L2 norm of the summed gradients; must be finite.
    """
    assert math.isfinite(grad_norm), "a non-finite gradient must not reach the weights"
    limit = optimizer.config.max_grad_norm
    if limit > 0 and grad_norm > limit:
        optimizer.scale_gradients(limit / (grad_norm + 1e-6))
    optimizer.num_steps += 1
    return Rule(optimizer.config, optimizer.num_steps, rate)


class AdamW:
    """Optimizer of a model's trainable parameters.

    Args:
        named_parameters: (structured name, parameter); those with stop_gradient are left alone.
        decay_all: decay vectors too; otherwise norms' weights and biases are not decayed.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, paddle.Tensor]],
        config: OptimizerConfig,
        decay_all: bool = False,
    ) -> None:
        self.config = config
        self.weights = {name: weight for name, weight in named_parameters if not weight.stop_gradient}
        if not self.weights:
            raise ValueError("no parameter is trainable; is everything frozen?")
        # Low-precision weights: gradients and steps live on the masters.  Float32 weights are their own leaves.
        self.leaves = {name: _master(weight) for name, weight in self.weights.items()}
        self.moments = {name: (paddle.zeros_like(leaf), paddle.zeros_like(leaf)) for name, leaf in self.leaves.items()}
        self.decayed = {name for name, leaf in self.leaves.items() if decay_all or leaf.ndim > 1}
        self.num_steps = 0
        self._pool, self._shares = None, [list(self.leaves)]
        if paddle.get_device() == "cpu":  # the kernel is single-threaded and lets other Python threads run
            self._shares = _split({name: leaf.size for name, leaf in self.leaves.items()}, _num_threads())
            self._pool = ThreadPoolExecutor(len(self._shares)) if len(self._shares) > 1 else None

    def begin(self) -> None:
        """Say that a step's backward passes follow; nothing to prepare where state is whole."""

    def reduce_gradients(self) -> None:
        """Sum the gradients of the passes over all ranks."""
        collectives.sum_gradients(self.leaves.values())

    @paddle.no_grad()
    def accumulate(self) -> None:
        """Move what the last backward pass left on low-precision weights into the float32 sums; call it after each."""
        for name, weight in self.weights.items():
            leaf = self.leaves[name]
            if leaf is weight or weight.grad is None:
                continue
            gradient = weight.grad.astype("float32")
            if leaf.grad is None:
                leaf.grad = gradient
            else:
                leaf.grad.add_(gradient)
            weight.clear_gradient(False)

    def grad_norm(self) -> float:
        """Measure the global L2 norm of the summed gradients; inf or NaN when any element is."""
        squares = [_C_ops.squared_l2_norm(leaf.grad).reshape([1]) for leaf in self._with_gradient()]
        return math.sqrt(paddle.concat(squares).astype("float64").sum().item()) if squares else 0.0

    def _with_gradient(self) -> list[paddle.Tensor]:
        return [leaf for leaf in self.leaves.values() if leaf.grad is not None]

    def step(self, rate: float, grad_norm: float) -> None:
        """Clip the summed gradients to max_grad_norm, take one step, drop the gradients.

        Args:
            rate: learning rate.
            grad_norm: as `grad_norm()` gave; must be finite.
        """
        rule = clip_and_count(self, rate, grad_norm)
        if self._pool is None:
            self._update(self._shares[0], rule)
        else:
            list(self._pool.map(lambda names: self._update(names, rule), self._shares))
        self.clear()

    @paddle.no_grad()
    def scale_gradients(self, factor: float) -> None:
        """Multiply every summed gradient in place."""
        for leaf in self._with_gradient():
            _C_ops.scale_(leaf.grad, factor, 0.0, True)

    @paddle.no_grad()
    def _update(self, names: Iterable[str], rule: Rule) -> None:
        for name in names:
            leaf, weight = self.leaves[name], self.weights[name]
            if leaf.grad is None:
                continue
            rule(leaf, leaf.grad, self.moments[name], name in self.decayed)
            if leaf is not weight:
                paddle.assign(leaf.astype(weight.dtype), weight)

    def clear(self) -> None:
        """Drop all gradients."""
        for name, leaf in self.leaves.items():
            leaf.clear_gradient(False)
            self.weights[name].clear_gradient(False)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copy the state: NAME/moment1, NAME/moment2 (float32, the parameter's shape), NAME/master, step [1] int64."""
        return dict(self._arrays())

    def _arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        yield STEP, np.array([self.num_steps], np.int64)
        for name, leaf in self.leaves.items():
            for part, moment in zip(("moment1", "moment2"), self.moments[name], strict=True):
                yield f"{name}/{part}", moment.numpy()
            if leaf is not self.weights[name]:
                yield f"{name}/master", leaf.numpy()

    def write_state(self, path: Path | None) -> None:
        """Write the state as one safetensors file, an array at a time; with several ranks, one has a path."""
        if path is not None:
            state_file.write(path, self.state_dict_shapes(), self._arrays())

    @paddle.no_grad()
    def load_state_dict(self, state: State) -> None:
        """Continue from a state, bit for bit; names or shapes that do not fit are one error."""
        state_file.check(state, self.state_dict_shapes())
        self.num_steps = int(state[STEP][0])
        for name, leaf in self.leaves.items():
            for moment, key in zip(self.moments[name], ("moment1", "moment2"), strict=True):
                moment.set_value(np.ascontiguousarray(state[f"{name}/{key}"]))
            if leaf is not self.weights[name]:
                leaf.set_value(np.ascontiguousarray(state[f"{name}/master"]))

    def state_dict_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every array of the state."""
        shapes = {STEP: (1,)}
        for name, leaf in self.leaves.items():
            parts = ["moment1", "moment2"] + ["master"] * (leaf is not self.weights[name])
            shapes |= {f"{name}/{part}": tuple(leaf.shape) for part in parts}
        return shapes


def _master(weight: paddle.Tensor) -> paddle.Tensor:
    """Give the float32 copy a low-precision weight is rounded from; a float32 weight itself."""
    if weight.dtype == paddle.float32:
        return weight
    master = weight.detach().astype("float32")
    master.stop_gradient = False
    return master


def _num_threads() -> int:
    return max(1, int(os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]))


def _split(sizes: Mapping[str, int], num_shares: int) -> list[list[str]]:
    """Deal names so that the shares' sizes are about equal."""
    shares: list[list[str]] = [[] for _ in range(num_shares)]
    totals = [0] * num_shares
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        least = totals.index(min(totals))
        shares[least].append(name)
        totals[least] += sizes[name]
    return [share for share in shares if share]
