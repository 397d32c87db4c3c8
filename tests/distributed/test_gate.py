# SPDX-License-Identifier: Apache-2.0
import multiprocessing
import os
import time

import pytest

from r1_mllm.distributed import gate


def second_process(pipe, delay):
    """Rank 1 in a process of its own: come late once, then end without a word."""

    def receive(box, src):
        box[0] = pipe.recv()

    gate.dist.broadcast_object_list, gate.dist.get_rank = receive, lambda: 1
    gate._connections.clear()
    os.environ["PADDLE_TRAINER_ENDPOINTS"] = "127.0.0.1:1,127.0.0.1:2"
    gate.open_gate(1, 2)
    time.sleep(delay)
    gate.meet()
    os._exit(0)


def test_the_first_waits_for_the_last_and_notices_when_it_has_ended(monkeypatch):
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    other = context.Process(target=second_process, args=(there, 0.3))
    other.start()
    there.close()
    monkeypatch.setattr(gate, "_connections", [])
    monkeypatch.setenv("PADDLE_CURRENT_ENDPOINT", "127.0.0.1:1")
    monkeypatch.setattr(gate.dist, "broadcast_object_list", lambda box, src: here.send(box[0]))
    monkeypatch.setattr(gate.dist, "get_rank", lambda: 0)
    gate.open_gate(0, 2)
    start = time.perf_counter()
    gate.meet()
    assert time.perf_counter() - start > 0.25
    with pytest.raises(ConnectionError, match="another process of this run has ended"):
        gate.meet()
    other.join(5)
    gate._connections[0].close()


def test_a_process_alone_does_not_wait():
    gate.meet()
