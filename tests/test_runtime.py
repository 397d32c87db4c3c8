# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from r1_mllm import runtime


@pytest.fixture
def environment(monkeypatch):
    for name in ("OMP_NUM_THREADS", "FLAGS_use_stride_kernel", "MKL_DEBUG_CPU_TYPE", "TOKENIZERS_PARALLELISM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    return monkeypatch


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        ("AuthenticAMD", {"avx2", "avx512f"}, "7"),
        ("AuthenticAMD", {"avx2"}, "5"),
        ("AuthenticAMD", {"sse4_2"}, None),
        ("GenuineIntel", {"avx2", "avx512f"}, None),
        ("", set(), None),
    ],
)
def test_the_math_code_path_follows_the_cpus_instructions(environment, vendor, flags, expected):
    environment.setattr(runtime, "processor", lambda: {"vendor_id": vendor, "flags": " ".join(flags)})
    runtime.prepare()
    assert os.environ.get("MKL_DEBUG_CPU_TYPE") == expected


def test_threads_are_shared_between_the_ranks_of_a_machine(environment):
    runtime.prepare(ranks_per_node=4)
    assert os.environ["OMP_NUM_THREADS"] == "1"
    del os.environ["OMP_NUM_THREADS"]
    runtime.prepare(ranks_per_node=2)
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_what_the_user_set_stays(environment):
    chosen = {"OMP_NUM_THREADS": "5", "FLAGS_use_stride_kernel": "1", "MKL_DEBUG_CPU_TYPE": "0"}
    for name, value in chosen.items():
        environment.setenv(name, value)
    runtime.prepare()
    assert {name: os.environ[name] for name in chosen} == chosen


def fake_paddle(folder, text):
    (folder / "paddle.py").write_text(text)
    code = "from r1_mllm import runtime; runtime.require_paddle()"
    path = os.pathsep.join([str(folder), os.getcwd()])
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("__version__ = '2.6.2'", "PaddlePaddle 2.6.2 is too old, 3.1 or newer is needed."),
        ("raise ModuleNotFoundError('x', name='paddle')", "PaddlePaddle is not installed."),
        (
            "import module_that_is_not_there",
            "PaddlePaddle cannot be imported: No module named 'module_that_is_not_there'.",
        ),
    ],
)
def test_an_unusable_paddle_is_one_sentence_and_two_install_lines(tmp_path, text, told):
    done = fake_paddle(tmp_path, text)
    first, *rest = done.stderr.strip().splitlines()
    assert done.returncode == 1 and first == told
    assert len(rest) == 2 and all("pip install" in line for line in rest)


@pytest.mark.parametrize("version", ["3.1.0", "3.3.1", "4.0.0rc1", "0.0.0"])
def test_usable_versions_pass(tmp_path, version):
    assert fake_paddle(tmp_path, f"__version__ = {version!r}").returncode == 0


def test_the_device_is_named():
    assert runtime.check_device().split(":")[0] in ("cpu", "gpu")


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c",
    "from r1_mllm.runtime import end_with_parent; import time; "
    "end_with_parent(); print('up', flush=True); time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_rank_ends_when_its_launcher_is_killed():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        words = {parent.stdout.readline().strip() for _ in range(2)}
        parent.kill()
    (child,) = words - {"up"}
    for _ in range(200):
        try:
            if Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return
        except FileNotFoundError:
            return
        time.sleep(0.02)
    raise AssertionError("the child outlived its parent")
