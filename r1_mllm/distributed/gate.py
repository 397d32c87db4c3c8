# SPDX-License-Identifier: Apache-2.0
"""Where processes on CPUs wait for each other before an exchange, for as long as it takes.

Gloo ends a process that waits for another one longer than 30 s, and Paddle offers no way to change that; answers of
unequal length can keep ranks apart for longer.  So they first meet here: rank 0 hears from every other process and
answers all.  A process that has ended is noticed at once.
"""

from __future__ import annotations

import os
import secrets
from multiprocessing.connection import Client, Connection, Listener

import paddle.distributed as dist

from .heartbeat import waiting

_connections: list[Connection] = []
"""Rank 0: to every other process; elsewhere: to rank 0; empty where exchanges wait by themselves."""


def open_gate(rank: int, world: int) -> None:
    """Connect all processes with rank 0; called once by each, after they can exchange."""
    told: list[tuple[int, bytes]] = [(0, b"")]
    if rank == 0:
        host = os.environ.get("PADDLE_CURRENT_ENDPOINT", "127.0.0.1:0").rpartition(":")[0]
        key = secrets.token_bytes(32)
        with Listener((host, 0), backlog=world, authkey=key) as listener:
            told = [(listener.address[1], key)]
            dist.broadcast_object_list(told, src=0)
            _connections.extend(listener.accept() for _ in range(world - 1))
        return
    dist.broadcast_object_list(told, src=0)
    host = os.environ["PADDLE_TRAINER_ENDPOINTS"].split(",")[0].rpartition(":")[0]
    port, key = told[0]
    _connections.append(Client((host, port), authkey=key))


@waiting()
def meet() -> None:
    """Wait until every process is here.

    Raises:
        ConnectionError: one of them has ended.
    """
    if not _connections:
        return
    try:
        if dist.get_rank() == 0:
            for connection in _connections:
                connection.recv_bytes()
            for connection in _connections:
                connection.send_bytes(b"on")
        else:
            _connections[0].send_bytes(b"here")
            _connections[0].recv_bytes()
    except (EOFError, OSError) as error:
        raise ConnectionError("another process of this run has ended; its log says why") from error
