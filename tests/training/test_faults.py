# SPDX-License-Identifier: Apache-2.0
"""A process killed at any named point of saving or deleting: the next start continues where the table says."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from r1_mllm.config import GrpoConfig, TrainingConfig
from r1_mllm.training import checkpoint, durable, faults

LATEST = {"save-renamed", "save-done", "purge-start", "purge-renamed", "purge-half", "purge-done"}
"""Points behind the rename: the checkpoint that was being saved counts."""


def open_run(folder):
    return checkpoint.open_run(GrpoConfig(training=TrainingConfig(output_dir=str(folder), save_total_limit=2)))


def save(run, step):
    value = np.full([40, 5], step, np.float32)
    run.save(step, lambda folder: save_file({"w": value}, folder / "model.safetensors"), {"w/moment1": value}, {})


def killed_while_saving(folder, fault, step):
    """Open the run, save one step and die at the fault; in a process of its own."""
    child = os.fork()
    if not child:
        os.environ["R1_FAULT"] = fault
        faults._reached.clear()
        save(open_run(folder), step)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("point", faults.POINTS)
def test_a_kill_at_any_point_costs_at_most_the_save_it_hit(tmp_path, point, capfd):
    kill_at(tmp_path, point, capfd, num_steps=1)


@pytest.mark.slow
@pytest.mark.parametrize("point", faults.POINTS)
def test_kills_at_a_point_in_six_saves_cost_at_most_these(tmp_path, point, capfd):
    kill_at(tmp_path, point, capfd, num_steps=6)


def kill_at(tmp_path, point, capfd, num_steps):
    folder = tmp_path / "run"
    run = open_run(folder)
    for step in (1, 2):
        save(run, step)
    run.close()
    expected = 2
    for step in range(3, 3 + num_steps):
        again = step - 1 if point == "save-replaced" else step  # only an older folder of that name is replaced
        second = ":2" if point == "json-staged" else ""  # run.json, and then the save's manifest
        code = killed_while_saving(folder, f"kill@{point}{second}", again)
        assert code == -signal.SIGKILL
        expected = step if point in LATEST else expected
        if point == "save-replaced":
            expected = min(number for number, _ in checkpoint.checkpoints(folder))
        run = open_run(folder)
        assert run.resume_point.step == expected
        assert f"resuming from step {expected}" in capfd.readouterr().err
        assert not list(folder.glob(".tmp-*")) + list(folder.glob(".trash-*")) + list(folder.glob(".*.tmp"))
        assert all(durable.damage(path) is None for _, path in checkpoint.checkpoints(folder))
        if point not in LATEST:
            save(run, step)
            expected = step
        run.close()


def test_every_named_point_is_reached_by_the_code():
    source = "".join(path.read_text() for path in Path(durable.__file__).parent.glob("*.py"))
    assert all(f'reach("{point}")' in source for point in faults.POINTS)


def test_another_point_or_number_does_nothing(monkeypatch):
    for value in ("kill@elsewhere", "kill@save-start:9", ""):
        monkeypatch.setenv("R1_FAULT", value)
        faults.reach("save-start")
