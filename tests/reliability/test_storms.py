# SPDX-License-Identifier: Apache-2.0
"""The kill storm and the corruption check in miniature."""

import importlib.util
from pathlib import Path

import pytest


def tool(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_damage_is_found_and_named_and_starts_fall_back():
    assert tool("corruption").run(20, 3, seed=1) == ([], [], [])


@pytest.mark.slow
def test_the_command_goes_on_from_the_checkpoint_before_and_refuses_when_all_are_damaged(monkeypatch):
    corruption = tool("corruption")
    monkeypatch.setattr(corruption, "ALL_EVERY", 2)
    assert corruption.run_commands(2, seed=4) == []


@pytest.mark.slow
def test_a_few_kills_change_nothing(tmp_path):
    told = tool("killstorm").storm(kills=2, steps=6, seed=3, seconds=200, root=tmp_path)
    assert told["runs"] >= 1 and told["kills"] >= 1
    assert not any(told[name] for name in ("unequal", "damaged", "failed", "orphans")), told


@pytest.mark.slow
def test_a_killed_rank_ends_its_run_at_once_and_changes_nothing(tmp_path):
    storm = tool("rankstorm")
    told = storm.storm(kills=1, steps=6, seed=5, root=tmp_path)
    assert told["kills"] == 1 and told["runs"] >= 1
    assert not any(told[name] for name in storm.PROBLEMS if name != "late"), told
    assert told["slowest exit"] < 3 * storm.EXIT_SECONDS  # a busy machine; the tool itself holds to the limit
