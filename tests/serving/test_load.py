# SPDX-License-Identifier: Apache-2.0
"""The figures of load.py in miniature; a busy machine may be slow, but nothing may be lost or left open."""

import asyncio
import importlib.util
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tool():
    pytest.importorskip("starlette", reason='the server is not installed: pip install "r1_mllm[serve]"')
    spec = importlib.util.spec_from_file_location("load", Path(__file__).with_name("load.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["load"] = module  # dataclasses and tasks look themselves up
    spec.loader.exec_module(module)
    return module


def test_many_clients_are_answered_or_sent_away(tool):
    told = asyncio.run(tool.load(64, 2.0))
    assert told["answered_per_second"] > 5 and not told["other_statuses"], told
    assert told["p99_ms"] < 8000 and told["slowest_health_ms"] < 4000, told


def test_slow_and_broken_connections_leave_nothing_open(tool):
    told = asyncio.run(tool.slow(60, 1.0))
    assert told["files_left"] == 0 and told["an_answer"] == 200 and told["slowest_health_ms"] < 4000, told
    told = asyncio.run(tool.aborts(40))
    assert told["files_left"] == 0 and told["an_answer"] == 200, told


def test_a_server_that_is_to_stop_answers_whom_it_let_in(tool):
    told = asyncio.run(tool.drain(16))
    assert told["exit"] == 0 and told["answered"] > 0 and not told["other_statuses"] and told["answers_lost"] == 0, told
