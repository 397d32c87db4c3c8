# SPDX-License-Identifier: Apache-2.0
"""Who this process is among those `paddle.distributed.launch` started."""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass

import paddle
import paddle.distributed as dist

from ..runtime import end_with_parent
from . import gate


@dataclass(frozen=True)
class Mesh:
    """This process's place among data-parallel processes."""

    rank: int = 0
    world: int = 1


def init() -> Mesh:
    """Join the processes of the launcher (gloo on a CPU, NCCL on GPUs); alone, do nothing.  May be called again."""
    if int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) <= 1:
        return Mesh()
    end_with_parent()
    if not dist.is_initialized():
        with contextlib.redirect_stderr(io.StringIO()):  # a banner of flags, on every rank
            dist.init_parallel_env()
        if paddle.get_device() == "cpu":
            gate.open_gate(dist.get_rank(), dist.get_world_size())
    return Mesh(dist.get_rank(), dist.get_world_size())
