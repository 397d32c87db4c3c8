# SPDX-License-Identifier: Apache-2.0
"""AdamW whose masters, moments and (stage 2) gradients are split over processes (ZeRO, arXiv:1910.02054).

Each process owns a flat slice of the concatenated parameters.  A step sums the gradients into their owners, each owner
takes AdamW's step on its slice, and every process receives the new weights.  Stage 1 exchanges once per step.  Stage 2
exchanges after each backward pass, bucket by bucket while it still runs, and keeps no whole gradient; processes agree
before each exchange, so one with fewer packs joins in with nothing and none waits for ever.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import paddle
from paddle import _C_ops

from ..config import GrpoConfig, OptimizerConfig, SftConfig
from ..distributed import collectives
from ..distributed.mesh import Mesh
from ..distributed.shards import Bucket, Piece, WorldShards, any_rank, buckets, open_shards, slices
from ..models import threads
from ..models.qwen_vl import QwenVL
from ..runtime import Stop
from . import sizing, state_file
from .optimizer import AdamW, clip_and_count
from .state_file import STEP, State

log = logging.getLogger(__name__)


class ShardedAdamW:
    """An optimizer like AdamW; every process must make the same calls, `accumulate` excepted.

    Args:
        named_parameters: (structured name, parameter); those with stop_gradient are left alone.
        shards: who owns what, and the exchanges.
        split_gradients: stage 2.
        decay_all: decay vectors too; otherwise norms' weights and biases are not decayed.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, paddle.Tensor]],
        config: OptimizerConfig,
        shards: WorldShards,
        split_gradients: bool = False,
        decay_all: bool = False,
    ) -> None:
        self.config, self.shards, self.split_gradients = config, shards, split_gradients
        self.weights = {name: weight for name, weight in named_parameters if not weight.stop_gradient}
        if not self.weights:
            raise ValueError("no parameter is trainable; is everything frozen?")
        self.owned = slices({name: weight.size for name, weight in self.weights.items()}, shards.degree)
        self.buckets = buckets(self.owned)
        self.mine = self.owned[shards.index]
        self.home = {piece.name: piece for piece in self.mine}
        self.decayed = {name for name, weight in self.weights.items() if decay_all or weight.ndim > 1}
        self.masters = {piece: self._view(piece).astype("float32") for piece in self.mine if self._narrow(piece.name)}
        self.moments = {piece: tuple(paddle.zeros([piece.size]) for _ in range(2)) for piece in self.mine}
        self.sums: dict[Piece, paddle.Tensor] = {}
        """Gradients of this process's slice, float32; a parameter nobody had a gradient for has none."""
        self.whole: dict[str, paddle.Tensor] = {}
        """Stage 1: float32 sums of narrow weights' gradients, until the exchange."""
        self.num_steps = 0
        self._round = _Round(self) if split_gradients else None

    def _narrow(self, name: str) -> bool:
        return self.weights[name].dtype != paddle.float32

    @paddle.no_grad()
    def _view(self, piece: Piece) -> paddle.Tensor:
        """The weight's numbers of a piece, [size], in place."""
        return flat_part(self.weights[piece.name], piece.start, piece.stop)

    def begin(self) -> None:
        """Say that backward passes of a step follow."""
        if self._round is not None:
            self._round.listening = threads.count() == 1

    @paddle.no_grad()
    def accumulate(self) -> None:
        """Take over what the last backward pass left on the weights; call it after each."""
        if self._round is not None:
            if self.has_gradients():
                self._round.finish(True)
            return
        for name, weight in self.weights.items():
            if weight.grad is None or not self._narrow(name):
                continue
            gradient = weight.grad.astype("float32")
            if name in self.whole:
                self.whole[name].add_(gradient)
            else:
                self.whole[name] = gradient
            weight.clear_gradient(False)

    def has_gradients(self) -> bool:
        """Whether some weight holds a gradient that has not been exchanged."""
        return any(weight.grad is not None for weight in self.weights.values())

    @paddle.no_grad()
    def reduce_gradients(self) -> None:
        """Sum gradients over processes into their owners; whole gradients are dropped on the way."""
        if self._round is None:
            left = {name: sum(piece.name == name for b in self.buckets for piece in b.pieces) for name in self.weights}
            for bucket in self.buckets:
                self.exchange(bucket, left)
            return
        while self._round.finish(self.has_gradients()):
            pass
        self._round.listening = False

    @paddle.no_grad()
    def exchange(self, bucket: Bucket, left: dict[str, int]) -> None:
        """Sum a bucket's gradients into its owner; a gradient whose last piece has gone is dropped.

        Args:
            left: pieces of each parameter still to go; counted down here.
        """
        gradients = [self._gradient(piece.name) for piece in bucket.pieces]
        parts = [
            paddle.zeros([piece.size])
            if gradient is None
            else flat_part(gradient, piece.start, piece.stop).astype("float32")
            for piece, gradient in zip(bucket.pieces, gradients, strict=True)
        ]
        present = paddle.to_tensor([float(gradient is not None) for gradient in gradients], "float32")
        flat = paddle.concat([present, *parts])
        del parts
        self.shards.reduce_to(bucket.owner, flat)
        if bucket.owner == self.shards.index:
            self._keep(bucket, flat)
        for piece in bucket.pieces:
            left[piece.name] -= 1
            if left[piece.name] == 0:
                self.whole.pop(piece.name, None)
                self.weights[piece.name].clear_gradient(False)

    def _gradient(self, name: str) -> paddle.Tensor | None:
        return self.whole.get(name, self.weights[name].grad)

    def _keep(self, bucket: Bucket, flat: paddle.Tensor) -> None:
        """Add a bucket's summed gradients [pieces + numbers] to this process's slice."""
        stop = len(bucket.pieces)
        present = flat[:stop].tolist()
        for piece, count in zip(bucket.pieces, present, strict=True):
            start, stop = stop, stop + piece.size
            if count == 0:
                continue
            home = self.home[piece.name]
            if home not in self.sums:
                self.sums[home] = paddle.zeros([home.size])
            flat_part(self.sums[home], piece.start - home.start, piece.stop - home.start).add_(flat[start:stop])

    def grad_norm(self) -> float:
        """Measure the global L2 norm of the summed gradients; inf or NaN when any element is."""
        squares = 0.0
        if self.shards.first_copy and self.sums:
            parts = [_C_ops.squared_l2_norm(gradient).reshape([1]) for gradient in self.sums.values()]
            squares = paddle.concat(parts).astype("float64").sum().item()
        return math.sqrt(collectives.sum_scalars({"squares": squares})["squares"])

    @paddle.no_grad()
    def scale_gradients(self, factor: float) -> None:
        """Multiply every summed gradient in place."""
        for gradient in self.sums.values():
            _C_ops.scale_(gradient, factor, 0.0, True)

    @paddle.no_grad()
    def step(self, rate: float, grad_norm: float) -> None:
        """Clip the summed gradients to max_grad_norm, take one step, share the new weights, drop the gradients.

        Args:
            rate: learning rate.
            grad_norm: as `grad_norm()` gave; must be finite.
        """
        rule = clip_and_count(self, rate, grad_norm)
        for piece, gradient in self.sums.items():
            master = self.masters.get(piece)
            leaf = self._view(piece) if master is None else master
            rule(leaf, gradient, self.moments[piece], piece.name in self.decayed)
            if master is not None:
                paddle.assign(master.astype(self.weights[piece.name].dtype), self._view(piece))
        self.clear()
        self._share_weights()

    def _share_weights(self) -> None:
        """Give every process the owners' weights."""
        if self.shards.degree == 1:
            return
        for bucket in self.buckets:
            views = [self._view(piece) for piece in bucket.pieces]
            dtypes = {view.dtype for view in views}
            wide = dtypes.pop() if len(dtypes) == 1 else paddle.float32
            flat = paddle.concat([view.astype(wide) for view in views])
            self.shards.broadcast_from(bucket.owner, flat)
            start = 0
            for view in views:
                if bucket.owner != self.shards.index:
                    paddle.assign(flat[start : start + view.size].astype(view.dtype), view)
                start += view.size

    def clear(self) -> None:
        """Drop all gradients."""
        self.sums.clear()
        self.whole.clear()
        for weight in self.weights.values():
            weight.clear_gradient(False)

    def state_dict_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every array of the state, as AdamW's: whole arrays, whoever holds them."""
        shapes = {STEP: (1,)}
        for name, weight in self.weights.items():
            parts = ["moment1", "moment2"] + ["master"] * self._narrow(name)
            shapes |= {f"{name}/{part}": tuple(weight.shape) for part in parts}
        return shapes

    @paddle.no_grad()
    def gathered(self) -> Iterator[tuple[str, np.ndarray]]:
        """Put the state together one array at a time, in the order of `state_dict_shapes`; on every process."""
        yield STEP, np.array([self.num_steps], np.int64)
        for key, shape in list(self.state_dict_shapes().items())[1:]:
            name, _, part = key.rpartition("/")
            flat = paddle.zeros([self.weights[name].size])
            for owner, pieces in enumerate(self.owned):
                for piece in (piece for piece in pieces if piece.name == name):
                    view = flat_part(flat, piece.start, piece.stop)
                    if owner == self.shards.index:
                        paddle.assign(self._held(piece, part), view)
                    if self.shards.degree > 1:
                        self.shards.broadcast_from(owner, view)
            yield key, flat.numpy().reshape(shape)

    def _held(self, piece: Piece, part: str) -> paddle.Tensor:
        if part == "master":
            return self.masters[piece]
        return self.moments[piece][part == "moment2"]

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copy the state as AdamW.state_dict gives it, whole on every process: for small networks and tests."""
        return dict(self.gathered())

    def write_state(self, path: Path | None) -> None:
        """Write the state as one safetensors file, an array at a time; every process calls it, one with a path.

        An error of the disk is raised when all arrays have been gathered, so that nobody waits for ever.
        """
        arrays = self.gathered()
        try:
            if path is not None:
                state_file.write(path, self.state_dict_shapes(), arrays)
        finally:
            for _ in arrays:
                pass

    @paddle.no_grad()
    def load_state_dict(self, state: State) -> None:
        """Continue from a whole state, whoever wrote it; arrays are read one at a time and cut."""
        state_file.check(state, self.state_dict_shapes())
        self.num_steps = int(state[STEP][0])
        for name, piece in self.home.items():
            for part in ["moment1", "moment2"] + ["master"] * self._narrow(name):
                cut = np.ascontiguousarray(state[f"{name}/{part}"]).reshape(-1)[piece.start : piece.stop]
                self._held(piece, part).set_value(cut)


class _Round:
    """One exchange of all buckets under stage 2; begins during a backward pass, once the first bucket is complete."""

    def __init__(self, optimizer: ShardedAdamW) -> None:
        self.optimizer = optimizer
        self.listening = False
        """Whether backward passes that run now belong to a step."""
        self.counts = {name: 0 for name in optimizer.weights}
        for bucket in optimizer.buckets:
            for piece in bucket.pieces:
                self.counts[piece.name] += 1
        for name, weight in optimizer.weights.items():
            weight._register_backward_hook(lambda name=name: self.ready_now(name))
            weight.gradient_is_awaited = True  # nothing may be added to it behind the hook (models/embedding.py)
        self._restart()

    def _restart(self) -> None:
        self.begun = False
        self.next = 0
        self.ready: set[str] = set()
        self.left = dict(self.counts)

    def ready_now(self, name: str) -> None:
        """Called when a parameter's gradient of a pass is complete: send the buckets that are."""
        if not self.listening:
            return
        self.ready.add(name)
        waiting = self.optimizer.buckets
        while self.next < len(waiting) and all(piece.name in self.ready for piece in waiting[self.next].pieces):
            self._open(True)
            self._send()

    def _open(self, active: bool) -> bool:
        """Agree with the other processes that an exchange takes place."""
        if not self.begun:
            self.begun = any_rank(active)
        return self.begun

    def _send(self) -> None:
        self.optimizer.exchange(self.optimizer.buckets[self.next], self.left)
        self.next += 1

    def finish(self, active: bool) -> bool:
        """Send the buckets that are left; False when no process had anything.

        Args:
            active: whether this process holds gradients.
        """
        if not self._open(active):
            return False
        while self.next < len(self.optimizer.buckets):
            self._send()
        self._restart()
        return True


def flat_part(tensor: paddle.Tensor, start: int, stop: int) -> paddle.Tensor:
    """Numbers start to stop of a tensor laid flat, in its own memory.

    An index would copy them: runtime.py switches Paddle's strided views off.
    """
    return tensor.reshape([-1])._slice(start, stop)


Optimizer = AdamW | ShardedAdamW


def open_optimizer(model: QwenVL, config: GrpoConfig | SftConfig, place: Mesh) -> Optimizer:
    """Give a run's optimizer: whole on each process, or shared out as --sharding says.

    Raises:
        Stop: a sharding degree that does not divide the number of processes.
    """
    try:
        degree = config.sharding.degree(place.world)
    except ValueError as error:
        raise Stop(str(error)) from error
    asked = config.sharding.sharding
    if asked == "none" or degree == 1:
        if asked != "none":
            log.warning("--sharding %s: nothing to share out with one process per copy", asked)
        return AdamW(model.named_parameters(), config.optimizer)
    if asked == "stage3":
        _explain_stage3(model, config, place)
    shards = open_shards(place.rank, place.world, degree)
    return ShardedAdamW(model.named_parameters(), config.optimizer, shards, config.sharding.gradients)


def _explain_stage3(model: QwenVL, config: GrpoConfig | SftConfig, place: Mesh) -> None:
    """Say what is done in place of splitting the weights, and how much memory that leaves in use."""
    device = "cpu" if paddle.get_device() == "cpu" else "gpu"
    rows = sizing.memory_estimate(model.arch, config, place.world, device, threads.count())
    held = {row.name: row.bytes / 1e9 for row in rows}
    message = (
        "--sharding stage3 is taken as stage2 with recompute: each device keeps the whole weights, %.2f GB, "
        "where stage 3 would keep %.2f GB; the estimate is %.2f GB per device at the peak"
    )
    log.warning(message, held["weights"], held["weights"] / place.world, sizing.total(rows) / 1e9)
