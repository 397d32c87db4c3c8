# SPDX-License-Identifier: Apache-2.0
"""Saves beside training: what they write is what stood there when they began, and they fail like the others."""

import errno
import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from r1_mllm.config import GrpoConfig
from r1_mllm.config.flags import parse
from r1_mllm.runtime import DISK, Stop
from r1_mllm.training import durable, grpo, loop
from r1_mllm.training.session import open_session

FILES = ("model.safetensors", "state/optimizer.safetensors", "state/trainer.json", "state/rng-rank000.json")


@pytest.fixture
def configure(request, tmp_path):
    checkpoint = request.config.rootpath / "tests/golden/cases/e2e/checkpoint"
    reward = tmp_path / "reward.py"
    reward.write_text("def vowels(group):\n    return [sum(c in 'aeiou' for c in d.text) for d in group.completions]\n")
    rows = [{"problem": f"{i} + 1", "solution": i} for i in range(8)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))

    def make(out, **flags):
        given = {
            "model_name_or_path": checkpoint,
            "task": "counting",
            "dataset_name": tmp_path / "rows.json",
            "output_dir": tmp_path / out,
            "max_steps": 6,
            "save_steps": 1,
            "save_total_limit": 9,
            "num_generations": 2,
            "max_completion_length": 12,
            "reward_funcs": f"{reward}:vowels",
            "reward_isolation": "none",
            "report_to": "none",
            "beta": 0,
            "learning_rate": "1e-3",
        } | flags
        return parse(GrpoConfig, [f"--{name}={value}" for name, value in given.items()], "x")

    return make


@pytest.fixture
def held(monkeypatch):
    """Publishing waits until the event is set."""
    event, publish = threading.Event(), durable.publish

    def wait_and_publish(*arguments):
        assert event.wait(60)
        publish(*arguments)

    monkeypatch.setattr(durable, "publish", wait_and_publish)
    return event


def test_fifty_changes_right_after_a_save_begins_are_not_in_it(configure, held):
    run = open_session(configure("run", async_save=True))
    held.set()
    run.step = 1
    assert run.save() and not run.settle()
    held.clear()
    assert not run.save(beside=True)  # the same step again: the older folder is replaced
    for _ in range(50):
        for parameter in run.model.parameters():
            parameter.set_value(parameter.numpy() + 1)
        for moments in run.optimizer.moments.values():
            for moment in moments:
                moment.set_value(moment.numpy() + 1)
    run.skipped.append(7)
    folder = run.run.output_dir / "checkpoint-1"
    before = [(folder / name).read_bytes() for name in FILES]
    number = folder.stat().st_ino
    held.set()
    assert run.settle() and not run.settle()
    assert folder.stat().st_ino != number and durable.damage(folder) is None
    assert [(folder / name).read_bytes() for name in FILES] == before
    run.step = 2
    run.save()
    run.close()
    changed = [(run.run.output_dir / "checkpoint-2" / name).read_bytes() for name in FILES]
    assert all(new != old for new, old in zip(changed[:3], before[:3], strict=True))


@pytest.mark.slow
def test_a_run_saves_the_same_beside_training(configure, tmp_path):
    grpo.train(configure("plain"))
    grpo.train(configure("beside", async_save=True))
    for step in range(1, 7):
        for name in FILES[:3]:  # Python's own generator goes on from run to run
            mine, other = (tmp_path / run / f"checkpoint-{step}" / name for run in ("beside", "plain"))
            assert mine.read_bytes() == other.read_bytes(), (step, name)
    first, last = (tmp_path / "plain" / f"checkpoint-{step}/model.safetensors" for step in (1, 6))
    assert first.read_bytes() != last.read_bytes()
    assert not [path for path in (tmp_path / "beside").iterdir() if path.name.endswith(".tmp")]


def in_memory():
    """Files of this process that have no name."""
    files = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return [file for file in files if os.path.islink(file) and "r1_mllm-state" in os.readlink(file)]


def test_a_run_that_ends_waits_for_its_save_and_gives_the_memory_back(configure, held):
    run = open_session(configure("run", async_save=True))
    run.step = 3
    run.save(beside=True)
    assert len(in_memory()) == 1
    threading.Timer(0.3, held.set).start()
    run.close()
    assert durable.damage(run.run.output_dir / "checkpoint-3") is None
    assert not in_memory()


def test_failures_surface_at_the_next_save_and_the_third_in_a_row_ends_the_run(
    configure, tmp_path, monkeypatch, capsys
):
    saved = []
    publish = durable.publish

    def fail(final: Path, *rest):
        saved.append(int(final.name.split("-")[1]))
        if len(saved) not in (3, 4):
            raise OSError(errno.ENOSPC, "No space left on device")
        publish(final, *rest)

    monkeypatch.setattr(durable, "publish", fail)
    with pytest.raises(Stop, match=r"could not write .*checkpoint-7.* No space left") as stop:
        grpo.train(configure("run", async_save=True, max_steps=9))
    assert stop.value.code == DISK and saved == [1, 2, 3, 4, 5, 6, 7]
    told = capsys.readouterr().err
    assert [told.count(f"checkpoint-{step}: ") for step in (1, 2, 5, 6)] == [1, 1, 1, 1]
    kept = {path.name for path in (tmp_path / "run").glob("checkpoint-*")}
    assert kept == {"checkpoint-3", "checkpoint-4"}


def test_a_checkpoint_is_due_when_so_many_minutes_have_passed(configure, tmp_path, monkeypatch):
    ticks = iter(range(0, 10**6, 25))  # every look at this clock is 25 s later
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    config = configure("run", save_steps=0, save_minutes=0.6)
    run = open_session(config)
    run.saved_at = 0.0
    loop.to_the_end(run, lambda stop: grpo._train(run, stop), lambda when: None)
    # looked at 0, 25, 50 (save, 75), 100, 125 (save, 150), and the end
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == {
        f"checkpoint-{step}" for step in (3, 5, 6)
    }


def test_adapters_are_written_at_once(configure):
    run = open_session(configure("run", async_save=True, use_peft=True, lora_r=2))
    assert run.save(beside=True)
    assert (run.run.output_dir / "checkpoint-0").is_dir()
    run.close()
