# SPDX-License-Identifier: Apache-2.0
"""Which slice of the concatenated parameters a process owns, and the exchanges between owners and the others.

On GPUs the groups are those of fleet's hybrid topology (data parallel x sharding); that part follows Paddle's
documentation and was not run here.  Gloo makes no groups beside the world's: there every exchange is one of the world.

Ranks are numbered as in fleet's topology: rank r owns slice r % degree, so `degree` neighbours hold one whole copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import paddle
import paddle.distributed as dist

from . import collectives
from .gate import meet
from .heartbeat import waiting

BUCKET_ELEMENTS = 1 << 22
"""Numbers exchanged together (16 MB of float32)."""


@dataclass(frozen=True)
class Piece:
    """Numbers start to stop of a flattened parameter."""

    name: str
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Bucket:
    """Pieces that travel together; all belong to one owner's slice."""

    owner: int
    pieces: tuple[Piece, ...]


def slices(sizes: Mapping[str, int], degree: int) -> list[list[Piece]]:
    """Cut the parameters, laid end to end in their order, into `degree` slices that differ by one number at most."""
    total = sum(sizes.values())
    bounds = [total * number // degree for number in range(degree + 1)]
    return [list(_between(sizes, *ends)) for ends in pairwise(bounds)]


def _between(sizes: Mapping[str, int], first: int, last: int) -> Iterator[Piece]:
    start = 0
    for name, size in sizes.items():
        low, high = max(first - start, 0), min(last - start, size)
        if low < high:
            yield Piece(name, low, high)
        start += size


def buckets(owned: Sequence[Sequence[Piece]], most: int = BUCKET_ELEMENTS) -> list[Bucket]:
    """Pack every owner's pieces into buckets of at most `most` numbers, last parameters first.

    Backward passes finish the last parameters first, so in this order buckets can leave while the pass still runs.
    """
    found = []
    for owner, pieces in reversed(list(enumerate(owned))):
        held: list[Piece] = []
        room = most
        for piece in (part for whole in reversed(pieces) for part in _cut(whole, most)):
            if piece.size > room:
                found.append(Bucket(owner, tuple(held)))
                held, room = [], most
            held.append(piece)
            room -= piece.size
        if held:
            found.append(Bucket(owner, tuple(held)))
    return found


def _cut(piece: Piece, most: int) -> Iterator[Piece]:
    for start in range(piece.start, piece.stop, most):
        yield Piece(piece.name, start, min(start + most, piece.stop))


@dataclass(frozen=True)
class WorldShards:
    """Exchanges in the world's group alone, as gloo needs; every process calls each in the same order."""

    rank: int
    world: int
    degree: int

    @property
    def index(self) -> int:
        """The slice this process owns."""
        return self.rank % self.degree

    @property
    def first_copy(self) -> bool:
        """Whether this process is the first owner of its slice: sums over owners count it once."""
        return self.rank < self.degree

    @waiting()
    def reduce_to(self, owner: int, flat: paddle.Tensor) -> None:
        """Sum `flat` over all processes, in place on the owners of the slice; elsewhere its values are lost."""
        if self.world == 1:
            return
        meet()
        if self.degree == self.world:
            dist.reduce(flat, dst=owner)
        else:
            dist.all_reduce(flat)

    @waiting()
    def broadcast_from(self, owner: int, flat: paddle.Tensor) -> None:
        """Replace `flat` everywhere by what the slice's owner holds."""
        if self.world > 1:
            meet()
            dist.broadcast(flat, src=owner)


@dataclass(frozen=True)
class HybridShards(WorldShards):
    """The same in fleet's groups: gradients are summed within a copy first, then between the owners of a slice.

    After https://www.paddlepaddle.org.cn/documentation/docs/en/api/paddle/distributed/fleet/Fleet_en.html
    (get_hybrid_communicate_group); not run here for want of GPUs.
    """

    sharding_group: dist.collective.Group
    data_group: dist.collective.Group

    @waiting()
    def reduce_to(self, owner: int, flat: paddle.Tensor) -> None:
        """As WorldShards."""
        dist.reduce(flat, dst=self.sharding_group.ranks[owner], group=self.sharding_group)
        if self.index == owner and self.data_group.nranks > 1:
            dist.all_reduce(flat, group=self.data_group)

    @waiting()
    def broadcast_from(self, owner: int, flat: paddle.Tensor) -> None:
        """As WorldShards."""
        dist.broadcast(flat, src=self.sharding_group.ranks[owner], group=self.sharding_group)


def open_shards(rank: int, world: int, degree: int) -> WorldShards:
    """Make the exchange for `degree` slices among `world` processes; `degree` divides `world`."""
    if degree == 1 or paddle.get_device() == "cpu":
        return WorldShards(rank, world, degree)
    from paddle.distributed import fleet  # slow to load, and only GPUs need it

    strategy = fleet.DistributedStrategy()
    strategy.hybrid_configs = {"dp_degree": world // degree, "mp_degree": 1, "pp_degree": 1, "sharding_degree": degree}
    fleet.init(is_collective=True, strategy=strategy)
    groups = fleet.get_hybrid_communicate_group()
    return HybridShards(rank, world, degree, groups.get_sharding_parallel_group(), groups.get_data_parallel_group())


@waiting()
def any_rank(value: bool) -> bool:
    """Say whether the value is true on any process; a small exchange of the world."""
    if collectives.world() == 1:
        return value
    meet()
    flag = paddle.to_tensor([float(value)], "float32")
    dist.all_reduce(flag)
    return flag.item() > 0
