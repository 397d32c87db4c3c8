# SPDX-License-Identifier: Apache-2.0
"""How runs end: status.json, exit codes, signals, stalls, full disks.  Whole runs as processes of their own."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from r1_mllm.config import GrpoConfig, TrainingConfig
from r1_mllm.data.synthetic import write_splits
from r1_mllm.distributed import heartbeat
from r1_mllm.runtime import DATA, DISK, MODEL, OUTPUT, STALLED, STOPPED, Stop
from r1_mllm.training import checkpoint, durable, loop
from r1_mllm.training import status as ends
from r1_mllm.training.checkpoint import latest_valid
from r1_mllm.training.status import supervised
from r1_mllm.training.tracking import Lines


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_splits("counting", 20, tmp_path_factory.mktemp("scenes"), num_test=3, seed=1)[0]


@pytest.fixture
def command(scenes, request):
    def make(output_dir, **flags):
        checkpoint = request.config.rootpath / "tests/golden/cases/e2e/checkpoint"
        settings = {
            "model_name_or_path": checkpoint,
            "task": "counting",
            "dataset_name": scenes,
            "output_dir": output_dir,
            "max_steps": 6,
            "save_steps": 1,
            "num_generations": 2,
            "max_completion_length": 6,
            "report_to": "none",
            "log_completions": False,
        } | flags
        return [sys.executable, "-m", "r1_mllm", "grpo", *(f"--{name}={value}" for name, value in settings.items())]

    return make


def run(command, **environment):
    return subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment, capture_output=True, text=True, timeout=250
    )


def start(command, **environment):
    return subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def status(folder):
    return json.loads((folder / "status.json").read_text())


def wait_for(condition, seconds=150):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lines(folder):
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


@pytest.mark.slow
def test_a_burst_of_signals_is_one_wish_to_stop(command, tmp_path):
    folder = tmp_path / "run"
    process = start(command(folder, max_steps=4000, save_steps=1000))
    wait_for(lambda: lines(folder) >= 2)
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    process.communicate(timeout=60)
    assert process.returncode == STOPPED
    told = status(folder)
    assert (told["state"], told["exit"]) == ("stopped", STOPPED)
    assert latest_valid(folder).name == f"checkpoint-{told['step']}"
    assert lines(folder) == told["step"]


@pytest.mark.slow
def test_a_stalled_run_names_the_line_it_hangs_in(command, tmp_path):
    folder = tmp_path / "run"
    ended = run(command(folder, stall_timeout=6), R1_FAULT="hang@score:3")
    assert ended.returncode == STALLED and "nothing moved for" in ended.stderr
    stacks = (folder / "stacks/rank000.txt").read_text()
    assert "in reward after step 2" in stacks and "faults.py" in stacks and "collect.py" in stacks
    told = status(folder)
    assert (told["state"], told["exit"], told["step"]) == ("stalled", STALLED, 2)
    finished = run(command(folder))
    assert finished.returncode == 0 and "resuming from step 2" in finished.stderr
    told = status(folder)
    assert (told["state"], told["step"], told["exit"]) == ("done", 6, 0)
    assert not list((folder / "stacks").iterdir())


HOLDS_THE_LOCK = """
import sys, re, pathlib, time
from r1_mllm.distributed import heartbeat
heartbeat.BACKSTOP_SECONDS = 0.5
heartbeat.FIRST_STEP_FACTOR = 1
heartbeat.start(pathlib.Path(sys.argv[1]), 0.5, print)
heartbeat.beat("matching", 3)
re.match("(a+)+b", "a" * 60)
"""


def test_a_hang_that_keeps_the_interpreter_to_itself_ends_too(tmp_path):
    ended = subprocess.run([sys.executable, "-c", HOLDS_THE_LOCK, tmp_path / "stacks.txt"], timeout=30)
    assert ended.returncode == 1
    assert 'File "<string>", line 8' in (tmp_path / "stacks.txt").read_text()


def test_beats_keep_the_watch_quiet_and_an_empty_file_goes(tmp_path):
    told = []
    heartbeat.start(tmp_path / "stacks.txt", 0.3, told.append)
    heartbeat.finished(1)
    for _ in range(6):
        time.sleep(0.1)
        heartbeat.beat("reward")
    heartbeat.stop()
    assert not told and not (tmp_path / "stacks.txt").exists()
    assert (heartbeat.latest.phase, heartbeat.latest.step) == ("reward", 1)


def small_disk(folder, size):
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a tmpfs is not permitted here")


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    small_disk(folder, "20m")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_costs_checkpoints_and_the_third_in_a_row_ends_the_run(command, disk):
    folder = disk / "run"
    process = start(command(folder, max_steps=4000))
    wait_for(lambda: (folder / "checkpoint-1").is_dir())
    with (disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(4096))
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == DISK
    assert errors.count("Training goes on") >= 2 and "bytes needed" in errors and "No space left" in errors
    (disk / "filler").unlink()
    newest = latest_valid(folder)
    assert newest is not None and not list(folder.glob(".tmp-*"))
    told = run(command(folder, max_steps=int(newest.name.split("-")[1]) + 1))
    assert "max_steps" in told.stderr  # another length is another run, and it says so before anything is lost
    assert latest_valid(folder) == newest


SIGNALS = """
import os, signal, sys, time
from pathlib import Path
from r1_mllm.training import signals, status
signals.PATIENCE_SECONDS = 0.5
with status.supervised(), signals.StopRequest() as stop:
    status.begin(Path(sys.argv[1]), 0, 0)
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.asked
    time.sleep(0.6)
    print("now", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("not reached")
"""


def test_a_later_signal_ends_at_once(tmp_path):
    ended = subprocess.run([sys.executable, "-c", SIGNALS, tmp_path], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout) == (128 + signal.SIGTERM, "now\n")
    told = status(tmp_path)
    assert (told["state"], told["exit"]) == ("aborted", 143) and "second signal 15" in told["reason"]


def opened(folder):
    return checkpoint.open_run(GrpoConfig(training=TrainingConfig(output_dir=str(folder))))


def test_a_limit_on_file_sizes_is_a_full_disk_too(tmp_path):
    made = opened(tmp_path / "run")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(Stop, match=r"File too large.* free") as refusal:
            made.save(1, lambda folder: (folder / "weights").write_bytes(bytes(60_000)), {}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    made.close()
    assert refusal.value.code == DISK and not list(made.output_dir.glob(".tmp-*"))


def test_room_for_two_checkpoints_is_asked_for_before_the_first_step(tmp_path):
    made = opened(tmp_path / "run")
    free = shutil.disk_usage(tmp_path).free
    made.expect(free // 4)
    with pytest.raises(Stop, match=r"no room for two.*bytes needed") as refusal:
        made.expect(free)
    made.close()
    assert refusal.value.code == DISK


def test_a_read_only_folder_is_refused(disk):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(Stop, match="cannot be written") as refusal:
        opened(disk / "run")
    assert refusal.value.code == OUTPUT


def test_an_unexpected_end_is_written_down_too(tmp_path):
    for error, code in ((KeyError("x"), 1), (Stop("bad", DATA), DATA), (OSError(28, "No space left", "f"), DISK)):
        with pytest.raises((KeyError, Stop)), supervised():
            made = opened(tmp_path / "run")
            made.close()
            raise error
        told = status(tmp_path / "run")
        assert (told["state"], told["exit"]) == ("failed", code)


class Saving:
    """A run whose saves fail as told."""

    def __init__(self, *fails):
        self.fails, self.failed_saves, self.told = list(fails), 0, []
        self.tracker = self

    def message(self, text):
        self.told.append(text)

    def save(self, beside):
        if self.fails.pop(0):
            raise Stop("could not write checkpoint-1: full", DISK)
        return True

    def settle(self):
        return False


def test_the_third_failed_save_in_a_row_ends_the_run():
    saving = Saving(True, True, False, True, True, True)
    for _ in range(5):
        loop._save(saving, last=False)
    assert [text.startswith("ERROR: could not write") for text in saving.told] == [True] * 4
    with pytest.raises(Stop) as refusal:
        loop._save(saving, last=False)
    assert refusal.value.code == DISK


def test_a_last_save_that_fails_is_an_error_at_once():
    with pytest.raises(Stop):
        loop._save(Saving(True), last=True)


def signed_again(folder):
    durable.seal(folder, 1)


def test_a_blank_random_state_is_refused_by_name(tmp_path):
    made = opened(tmp_path / "run")
    made.save(1, lambda folder: None, {"w/moment1": np.zeros(2, np.float32)}, {})
    made.close()
    folder = tmp_path / "run/checkpoint-1"
    file = folder / "state/rng-rank000.json"
    state = json.loads(file.read_text())
    state["paddle"][0][-1] = []
    file.write_text(json.dumps(state))
    signed_again(folder)
    made = opened(tmp_path / "run")
    with pytest.raises(Stop, match=r"rng-rank000\.json is not a random state") as refusal:
        made.resume_point.restore_rng()
    made.close()
    assert refusal.value.code == MODEL


def test_lines_that_find_no_room_come_later_in_order(disk):
    told = []
    rows = Lines(disk / "metrics.jsonl", told.append)
    rows.append({"step": 1})
    with (disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(4096))
    for step in range(2, 1500):
        rows.append({"step": step})
    (disk / "filler").unlink()
    rows.append({"step": 1500})
    rows.close()
    kept = [json.loads(line)["step"] for line in (disk / "metrics.jsonl").read_text().splitlines()]
    assert kept == list(range(1, 1501)) and len(told) == 1 and "wait for room" in told[0]


def test_a_signal_outside_the_steps_ends_the_run_in_order_too(tmp_path):
    with pytest.raises(Stop) as stop, supervised():
        opened(tmp_path / "run").close()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert stop.value.code == STOPPED and status(tmp_path / "run")["state"] == "stopped"
    assert signal.signal(signal.SIGTERM, signal.SIG_DFL) is signal.SIG_IGN  # repeated signals do no harm


def test_what_a_stall_told_is_not_replaced_by_what_follows_from_it(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(ends.heartbeat, "start", lambda file, seconds, on_stall: told.append(on_stall))
    for ends_first in (True, False):
        with pytest.raises(ConnectionError), supervised():
            ends.begin(tmp_path, 0, 6.0)
            if ends_first:
                told[-1]("nothing moved")
            raise ConnectionError("another process has ended")
        found = status(tmp_path)
        assert (found["state"], found["exit"]) == (("stalled", STALLED) if ends_first else ("failed", 1))
