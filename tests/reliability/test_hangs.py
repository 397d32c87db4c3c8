# SPDX-License-Identifier: Apache-2.0
"""A rank that hangs ends the run of all, and the stacks of all say where each of them was."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from r1_mllm.data.synthetic import write_splits
from r1_mllm.distributed import heartbeat
from r1_mllm.runtime import STALLED

STALL = 6
"""Seconds of --stall_timeout."""
BUSY = 45
"""Seconds that the end may take after that; 15 are promised, on a machine that does nothing else."""


@pytest.fixture(scope="module")
def storm():
    spec = importlib.util.spec_from_file_location("rankstorm", Path(__file__).with_name("rankstorm.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "line"),
    [("loader", "hang_forever"), ("exchange", "hang_forever"), ("reward", "hang_forever"), ("lock", "keep_the_lock")],
)
def test_a_rank_that_hangs_ends_all_with_the_stacks_of_all(request, tmp_path, storm, kind, line):
    rows = write_splits("counting", 8, tmp_path / "scenes", num_test=3, seed=1)[0]
    folder = tmp_path / "run"
    checkpoint = request.config.rootpath / "tests/golden/cases/e2e/checkpoint"
    flags = f"--model_name_or_path {checkpoint} --task counting --dataset_name {rows} --output_dir {folder} --beta 0"
    flags += f" --max_steps 9 --num_generations 2 --max_completion_length 4 --report_to none --stall_timeout {STALL}"
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", tmp_path / "log"]
    command = [sys.executable, *launch, Path(__file__).with_name("hanging_rank.py"), kind, tmp_path / "hangs"]
    command += flags.split()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE_")}
    process = subprocess.Popen(
        list(map(str, command)), env=environment | {"OMP_NUM_THREADS": "1"}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    tree, begun = [], None
    while process.poll() is None:
        tree = storm.below(process.pid) or tree
        if begun is None and (tmp_path / "hangs").exists():
            begun = time.monotonic()
        time.sleep(0.1)
    assert process.returncode != 0 and begun is not None
    assert time.monotonic() - begun < STALL + BUSY
    assert storm.left_behind(tree, process.pid) == []
    shared = {number for name in os.listdir("/dev/shm") for number in re.findall(r"\d+", name)}
    assert not shared & {str(number) for number, _ in tree}
    first, second = ((folder / f"stacks/rank00{rank}.txt").read_text() for rank in (0, 1))
    assert line in second and "hanging_rank.py" in second
    assert "gate.py" in first or "all_gather_object" in first  # rank 0 waits for the other one
    told = json.loads((folder / "status.json").read_text())
    assert (told["state"], told["exit"], told["step"]) == ("stalled", STALLED, 2)


PEER = """
import sys, pathlib, time
from r1_mllm.distributed import heartbeat
heartbeat.FIRST_STEP_FACTOR = 1
own, moves, waits = pathlib.Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
heartbeat.start(own, 0.6, lambda reason: print(reason, flush=True))
print("ready", flush=True)
until = time.monotonic() + moves
while time.monotonic() < until:
    time.sleep(0.05)
    heartbeat.beat("generate", 7)
with heartbeat.waiting():
    time.sleep(waits)
heartbeat.stop()
"""


def start(path, moves, waits):
    command = [sys.executable, "-c", PEER, str(path), str(moves), str(waits)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_waiting_for_a_rank_that_moves_is_no_stall_and_for_one_that_does_not_is(tmp_path):
    (tmp_path / "rank007.txt").write_text("stacks of an earlier run")
    late = start(tmp_path / "rank001.txt", 1.5, 60)  # moves for a while, then hangs
    early = start(tmp_path / "rank000.txt", 0.1, 60)  # waits for it all the time
    time.sleep(1.2)
    assert early.poll() is None and late.poll() is None
    told = [process.communicate(timeout=20)[0] for process in (early, late)]
    assert early.returncode == late.returncode == STALLED
    assert any("nothing moved for" in text for text in told)
    for rank in (0, 1):
        assert 'File "<string>", line 13' in (tmp_path / f"rank00{rank}.txt").read_text()


def test_a_long_generation_is_no_stall(tmp_path):
    process = start(tmp_path / "rank000.txt", 1.3, 0.1)
    assert process.communicate(timeout=20)[0] == "" and process.returncode == 0
    assert not (tmp_path / "rank000.txt").exists()


def test_exchanges_inside_exchanges_still_wait():
    with heartbeat.waiting():
        with heartbeat.waiting():
            pass
        assert heartbeat.latest.waiting
    assert not heartbeat.latest.waiting
