# SPDX-License-Identifier: Apache-2.0
"""Runs killed at any moment end like runs that were left alone."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from r1_mllm.data.synthetic import write_splits
from r1_mllm.runtime import STOPPED

STEPS = 12


@pytest.fixture(scope="module")
def command(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("kill")
    train, _ = write_splits("counting", 20, folder / "scenes", num_test=3, seed=1)
    reward = folder / "reward.py"
    reward.write_text("def vowels(group):\n    return [sum(c in 'aeiou' for c in d.text) for d in group.completions]\n")

    def make(output_dir):
        checkpoint = request.config.rootpath / "tests/golden/cases/e2e/checkpoint"
        flags = f"--model_name_or_path {checkpoint} --task counting --dataset_name {train} --output_dir {output_dir}"
        flags += f" --max_steps {STEPS} --save_steps 2 --num_generations 3 --max_completion_length 8 --report_to none"
        flags += f" --learning_rate 1e-3 --reward_funcs {reward}:vowels"
        return [sys.executable, "-m", "r1_mllm", "grpo", *flags.split()]

    return make


def run(command):
    return subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)


def start_and_signal(command, output_dir, wanted_lines, number):
    """Send a signal once metrics.jsonl has so many lines (or the process has ended); give its exit code."""
    metrics = output_dir / "metrics.jsonl"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if metrics.is_file() and len(metrics.read_text().splitlines()) >= wanted_lines:
                process.send_signal(number)
                break
            time.sleep(0.005)
        return process.wait(60)


def same_end(one, other):
    last = f"checkpoint-{STEPS}"
    for name in ("model.safetensors", "state/optimizer.safetensors"):
        assert (one / last / name).read_bytes() == (other / last / name).read_bytes()
    rows = [[json.loads(line) for line in (f / "completions.jsonl").read_text().splitlines()] for f in (one, other)]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_a_killed_run_ends_like_one_left_alone(command, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(command(whole)).returncode == 0
    for lines in (3, 6, 9):
        start_and_signal(command(killed), killed, lines, signal.SIGKILL)
    finished = run(command(killed))
    assert finished.returncode == 0 and "resuming from step" in finished.stderr
    same_end(whole, killed)


@pytest.mark.slow
def test_a_stopped_run_saves_the_step_it_is_in(command, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(command(whole)).returncode == 0
    assert start_and_signal(command(stopped), stopped, 5, signal.SIGTERM) == STOPPED
    assert run(command(stopped)).returncode == 0
    same_end(whole, stopped)
