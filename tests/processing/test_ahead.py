# SPDX-License-Identifier: Apache-2.0
"""Values made ahead of time are those made when asked, each once."""

import threading
from pathlib import Path

import pytest

from r1_mllm.processing import prompt
from r1_mllm.processing.ahead import Ahead

CHECKPOINT = Path(__file__).parents[1] / "golden/cases/e2e/checkpoint"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_values_in_order_and_equal_keys_once(num_workers):
    made = []

    def make(key):
        made.append(key)
        return key * 10

    ahead = Ahead(make, num_workers)
    ahead.prepare([7, 8])
    assert ahead.take([8, 7, 8]) == [80, 70, 80]
    assert ahead.take([9]) == [90]
    ahead.close()
    assert sorted(made) == [7, 8, 9]


def test_work_goes_on_while_nobody_waits():
    begun = threading.Event()
    ahead = Ahead(lambda key: begun.set() or key, 1)
    ahead.prepare([1])
    assert begun.wait(10)
    assert ahead.take([1]) == [1]
    ahead.close()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_reaches_who_takes(num_workers):
    def make(key):
        raise ValueError(f"picture {key} is broken")

    ahead = Ahead(make, num_workers)
    ahead.prepare([3])
    with pytest.raises(ValueError, match="picture 3 is broken"):
        ahead.take([3])
    ahead.close()


def test_what_is_no_longer_wanted_is_dropped():
    gate, made = threading.Event(), []

    def make(key):
        gate.wait(10)
        made.append(key)
        return key

    ahead = Ahead(make, 1)
    ahead.prepare([1, 2, 3])
    ahead.prepare([3])
    gate.set()
    assert ahead.take([3]) == [3]
    ahead.close()
    assert 2 not in made


def test_taking_some_keeps_the_others():
    made = []
    ahead = Ahead(lambda key: made.append(key) or key, 1)
    ahead.prepare([1, 2])
    assert ahead.take([1]) == [1]
    assert ahead.take([2]) == [2]
    ahead.close()
    assert made == [1, 2]


def test_threads_may_share_a_processor_whose_cache_is_full(monkeypatch):
    monkeypatch.setattr(prompt, "MAX_CACHED_CHATS", 2)
    processor = prompt.Processor.from_pretrained(CHECKPOINT)
    chats = [[{"role": "user", "content": f"What is {number} + 1?"}] for number in range(7)]
    alone = [processor.encode(chat).ids.tolist() for chat in chats]
    ahead = Ahead(lambda number: processor.encode(chats[number % 7]).ids.tolist(), 8)
    assert ahead.take(range(140)) == 20 * alone
    ahead.close()
