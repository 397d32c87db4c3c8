# SPDX-License-Identifier: Apache-2.0
"""The same groups give the same gradient whether one process holds them or two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

WORKER = Path(__file__).with_name("two_ranks_gradient.py")


def run(words, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE_")}
    command = [sys.executable, *words, WORKER, *arguments]
    command = [str(word) for word in command]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(Path(arguments[1]).read_text())


@pytest.mark.slow
@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_two_ranks_sum_to_the_gradient_of_one(request, tmp_path, loss_type):
    folder = request.config.rootpath / "tests/golden/cases/e2e/checkpoint"
    alone = run([], folder, tmp_path / "alone.json", loss_type)
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", tmp_path / "log"]
    both = run(launch, folder, tmp_path / "both.json", loss_type)
    assert alone["grad_norm"] > 0.01
    assert both["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert both["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-5)
    np.testing.assert_allclose(both["weight"], alone["weight"], atol=1e-6)
