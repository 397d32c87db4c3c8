# SPDX-License-Identifier: Apache-2.0
"""Threads of a crew meet at barriers, sleep, wake and do not get into each other's way."""

import threading
import time

import numpy as np
import pytest

from r1_mllm.models import host

if not host.is_there():
    pytest.skip("needs numba and a Paddle with MKL", allow_module_level=True)

from numba import njit

from r1_mllm.models import crew


@njit(nogil=True)
def ring(thread, team, control, rounds, numbers):
    """Each thread adds its neighbour's number of the round before to its own."""
    for i in range(rounds):
        taken = numbers[i % 2, (thread + 1) % team]
        numbers[(i + 1) % 2, thread] = numbers[i % 2, thread] + taken
        crew.barrier(control, team)


def ring_by_hand(team, rounds):
    numbers = np.arange(1, team + 1)
    for _ in range(rounds):
        numbers = numbers + np.roll(numbers, -1)
    return numbers


def run_ring(helpers, team, rounds):
    numbers = np.zeros([2, team], np.int64)
    numbers[0] = np.arange(1, team + 1)
    helpers.run(ring, rounds, numbers)
    return numbers[rounds % 2]


def test_barriers_keep_rounds_apart_also_after_sleep():
    ring(0, 1, np.zeros(16, np.int64), 1, np.zeros([2, 1], np.int64))  # compiled
    helpers = crew.Crew(3)
    for rounds in (1, 7, 30):
        for _ in range(20):
            np.testing.assert_array_equal(run_ring(helpers, 3, rounds), ring_by_hand(3, rounds))
    deadline = time.monotonic() + 30
    while len(helpers._asleep) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(helpers._asleep) == 2  # helpers do not keep the processor busy
    for _ in range(50):
        np.testing.assert_array_equal(run_ring(helpers, 3, 5), ring_by_hand(3, 5))
        time.sleep(0.001)  # about when they fall asleep


def test_a_second_caller_works_alone():
    ring(0, 1, np.zeros(16, np.int64), 1, np.zeros([2, 1], np.int64))
    helpers, results = crew.Crew(2), []

    def call():
        for _ in range(200):
            seen_by = np.zeros(2, np.int64)
            helpers.run(alone_or_not, seen_by)
            results.append(seen_by.tolist())

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 600
    assert {tuple(result) for result in results} <= {(1, 0), (2, 2)}


@njit(nogil=True)
def alone_or_not(thread, team, control, seen_by):
    seen_by[thread] = team
    crew.barrier(control, team)


def test_what_is_not_compiled_yet_runs_on_one_thread():
    @njit(nogil=True)
    def fresh(thread, team, control, teams):
        teams[thread] = team
        crew.barrier(control, team)

    helpers, teams = crew.Crew(2), np.zeros(2, np.int64)
    helpers.run(fresh, teams)
    assert teams.tolist() == [1, 0]
    helpers.run(fresh, teams)
    assert teams.tolist() == [2, 2]
