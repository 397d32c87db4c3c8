# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm env` answers whatever state Paddle is in."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from r1_mllm import environment

ROOT = Path(__file__).resolve().parents[1]
SMI = """#!/bin/sh
echo "0, Tesla V100-SXM2-32GB, 32768 MiB, 411 MiB, 535.104.05, 7.0"
echo "1, NVIDIA A10, 23028 MiB, 0 MiB, 535.104.05, 8.6"
"""


def told(tmp_path, paddle, **more):
    """Run the command where `import paddle` runs this text."""
    (tmp_path / "paddle.py").write_text(paddle)
    variables = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", **more}
    words = [sys.executable, "-m", "r1_mllm", "env", "--json"]
    done = subprocess.run(words, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("paddle", "word"),
    [
        ("raise ImportError('libcudart.so.12: cannot open')", "fails: ImportError: libcudart.so.12: cannot open"),
        ("import os; os.kill(os.getpid(), 11)", "ends by SIGSEGV"),
    ],
)
def test_a_broken_paddle_is_part_of_the_answer(tmp_path, paddle, word):
    assert told(tmp_path, paddle)["paddle"]["import"] == word


def test_gpus_and_variables_are_listed_and_secrets_are_not(tmp_path):
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    found = told(tmp_path, "1/0", PATH=path, FLAGS_x="a b", R1_API_KEY="geheim", HOME_ADDRESS="nobody asked")
    assert found["GPUs"]["GPU 1"] == "NVIDIA A10, 0 MiB of 23028 MiB used, driver 535.104.05, compute capability 8.6"
    assert found["environment"]["FLAGS_x"] == "a b" and found["environment"]["R1_API_KEY"] == "(set)"
    assert "geheim" not in json.dumps(found) and "HOME_ADDRESS" not in found["environment"]
    assert found["paddle"]["import"] == "fails: ZeroDivisionError: division by zero"


def test_a_paddle_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(environment, "PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(environment, "IMPORT_SECONDS", 0.2)
    assert environment.paddle_works() == {"import": "does not end within 0.2 s"}


def test_numbers_are_the_systems_own(monkeypatch):
    monkeypatch.setattr(environment, "paddle_works", lambda: {"import": "works"})
    found = environment.describe()
    kilobytes = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1])
    assert found["memory"]["MemTotal"] == f"{kilobytes * 1024 / 1e9:.2f} GB"
    assert found["packages"]["numpy"] == __import__("numpy").__version__
    text = environment.render(found | {"GPUs": {}})
    assert "paddle\n" in text and "GPUs\n  none\n" in text and f"  python: {sys.version.split()[0]}\n" in text


def test_the_packages_asked_for_are_those_that_are_needed():
    project = (ROOT / "pyproject.toml").read_text()
    listed = project.split("dependencies = [", 1)[1].split("]", 1)[0]
    assert sorted(re.findall(r'^    "([\w-]+)', listed, re.MULTILINE)) == sorted(environment.NEEDED)
