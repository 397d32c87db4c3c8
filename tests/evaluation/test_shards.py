# SPDX-License-Identifier: Apache-2.0
"""Rows that several processes answer: who answers which, resuming, and the same results file as from one process."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from r1_mllm.config import EvalConfig, save_args
from r1_mllm.config.flags import parse
from r1_mllm.evaluation.command import main
from r1_mllm.evaluation.passk_command import PasskConfig, PasskSettings
from r1_mllm.evaluation.shards import SharedRows, Team, forget, launched_place, start
from r1_mllm.rejection.command import RejectConfig, RejectSettings
from r1_mllm.rewards.judge import JudgeConfig
from r1_mllm.runtime import Stop

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "tests/golden/cases/e2e/checkpoint"


def shared(folder, rank, world, num=7, block=2, key="key"):
    return SharedRows(folder / "a_qwen2.5_r1.json", key, num, block, Team(rank, world))


def row(i):
    return {"id": i, "correct": i % 2}


def test_blocks_go_round_and_keep_their_members(tmp_path):
    assert shared(tmp_path, 0, 1).missing() == [[0, 1], [2, 3], [4, 5], [6]]
    assert shared(tmp_path, 0, 3).missing() == [[0, 1], [6]]
    assert shared(tmp_path, 1, 3).missing() == [[2, 3]]
    assert shared(tmp_path, 2, 3).missing() == [[4, 5]]
    assert shared(tmp_path, 3, 5).missing() == [[6]] and shared(tmp_path, 4, 5).missing() == []


def test_the_first_process_gathers_the_rows_of_all_in_order(tmp_path):
    places = [shared(tmp_path, rank, 3) for rank in range(3)]

    def work(place):
        for block in place.missing():
            time.sleep(0.01)
            place.add(block, [row(i) for i in block])

    threads = [threading.Thread(target=work, args=(place,)) for place in places[1:]]
    for thread in threads:
        thread.start()
    work(places[0])
    assert places[0].gather() == [row(i) for i in range(7)]
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.glob("*.partial.jsonl"))) == 3
    places[0].remove()
    assert not list(tmp_path.iterdir())


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    for rank in (0, 1):
        place = shared(tmp_path, rank, 2)
        place.add(place.missing()[0], [row(i) for i in place.missing()[0]])
    later = shared(tmp_path, 0, 1, block=3)
    assert sorted(later.known) == [0, 1, 2, 3] and later.missing() == [[4, 5], [6]]
    assert later.missing(whole_blocks=True) == [[3, 4, 5], [6]]
    later.add([4, 5, 6], [row(4), row(5), row(6)])
    assert shared(tmp_path, 2, 3).missing() == [] and later.gather() == [row(i) for i in range(7)]


def test_rows_of_other_arguments_and_of_other_files_are_passed_over(tmp_path):
    shared(tmp_path, 0, 2, key="other").add([0, 1], [row(0), row(1)])
    SharedRows(tmp_path / "a_qwen2.5_r1_more.json", "key", 7, 2, Team(1, 2)).add([2], [row(2)])
    assert shared(tmp_path, 0, 2).known == {}


def test_a_cut_line_is_answered_again(tmp_path):
    place = shared(tmp_path, 1, 2)
    place.add([2, 3], [row(2), row(3)])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-4])
    assert shared(tmp_path, 1, 2).missing() == [[3], [6]]


def test_overwriting_forgets_finished_and_unfinished_rows_of_that_name_only(tmp_path, monkeypatch):
    shared(tmp_path, 1, 2).add([2], [row(2)])
    shared(tmp_path, 0, 1).add([0], [row(0)])
    for name in ("a_qwen2.5_r1.json", "a_qwen2.5_r1_more.json"):
        (tmp_path / name).write_text("{}")
    forget([tmp_path / "a_qwen2.5_r1.json"])
    assert [path.name for path in tmp_path.iterdir()] == ["a_qwen2.5_r1_more.json"]
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    with pytest.raises(Stop, match="remove the results files first"):
        forget([tmp_path / "a_qwen2.5_r1_more.json"])


def test_the_place_is_the_launchers(monkeypatch):
    assert (launched_place().rank, launched_place().world) == (0, 1)
    monkeypatch.setenv("PADDLE_TRAINER_ID", "2")
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "4")
    assert (launched_place().rank, launched_place().world) == (2, 4)


@dataclasses.dataclass(frozen=True)
class Settings:
    num_processes: int = 2
    overwrite: bool = False
    model_path: str = "x"


def test_a_helper_that_fails_ends_the_run_with_its_words(tmp_path):
    with (
        pytest.raises(Stop, match=r"ended with code 64: .*no command 'evil'"),
        start(2, "evil", Settings(), tmp_path) as t,
    ):
        SharedRows(tmp_path / "a.json", "key", 1, 1, t).gather()
    with pytest.raises(Stop, match="num_processes 0"), start(0, "eval", Settings(), tmp_path):
        pass


def test_the_launchers_processes_start_no_helpers(tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    with pytest.raises(Stop, match="launcher"), start(2, "eval", Settings(), tmp_path):
        pass
    with start(1, "eval", Settings(), tmp_path) as team:
        assert (team.rank, team.world) == (0, 2)


@pytest.fixture
def words(project):
    """`r1-mllm eval` on four box questions with a tiny real model."""
    place = ["--data_root", project / "data/rec_jsons_processed", "--image_root", project / "data/coco"]
    model = ["--model_path", CHECKPOINT, "--max_new_tokens", "6", "--batch_size", "1", "--task", "rec"]
    return [sys.executable, "-m", "r1_mllm", "eval", *model, *place, "--test_datasets", "refcoco_val"]


def results(folder):
    (path,) = folder.glob("*.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    for name in ("num_processes", "logs_dir"):
        content["settings"].pop(name)
    return content


def test_two_ranks_write_what_one_process_writes(words, project, monkeypatch):
    flags = list(map(str, words[4:]))
    main("", [*flags, "--logs_dir", str(project / "one")])
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    for rank in "10":
        monkeypatch.setenv("PADDLE_TRAINER_ID", rank)
        main("", [*flags, "--logs_dir", str(project / "two")])
        (path,) = (project / "two").iterdir()
        assert path.name.endswith(".json" if rank == "0" else "_r1_100.shard-1-of-2.partial.jsonl")
    assert results(project / "one") == results(project / "two") and results(project / "one")["num"] == 4


@pytest.mark.slow
def test_ranks_of_paddles_launcher_share_the_rows(words, project):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launch = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--run_mode", "collective"]
    for command, logs in ((words, "one"), ([*launch, "--log_dir", "launch", *words], "two")):
        command = [*command, "--logs_dir", logs]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stdout + done.stderr
    assert results(project / "one") == results(project / "two") and results(project / "one")["num"] == 4


@pytest.mark.parametrize(
    "config",
    [
        EvalConfig(checkpoints="a b/run", ood_datasets=("x", "y"), task="rec", sample_num=0),
        PasskConfig(
            PasskSettings(k_values=(1, 16), num_generations=16), EvalConfig(model_path="m", prompt_template="p")
        ),
        RejectConfig(
            RejectSettings(domain_quota=("math=7", "a b=3"), score_by="judge"),
            judge=JudgeConfig(judge_url="http://h:1/v1", judge_model="j"),
        ),
    ],
    ids=["eval", "passk", "reject"],
)
def test_helpers_are_told_the_very_settings(config, tmp_path):
    save_args(config, tmp_path / "helpers.yaml")
    assert parse(type(config), ["--config", str(tmp_path / "helpers.yaml")], "prog") == config


@pytest.mark.slow
def test_two_processes_write_what_one_writes_and_a_killed_pair_goes_on(words, project):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    options = {"cwd": project, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    one, two = project / "one", project / "two"
    single = subprocess.Popen([*words, "--logs_dir", one], **options)
    pair = subprocess.Popen([*words, "--logs_dir", two, "--num_processes", "2"], **options)
    while pair.poll() is None and not list(two.glob("*.shard-0-of-2.partial.jsonl")):
        time.sleep(0.02)
    pair.send_signal(signal.SIGKILL)
    pair.communicate()
    assert single.communicate()[0] and single.returncode == 0
    again = subprocess.run([*words, "--logs_dir", two, "--num_processes", "2"], timeout=120, **options)
    assert again.returncode == 0, again.stdout
    assert "rows are answered already" in again.stdout
    assert results(one) == results(two) and results(one)["num"] == 4
    assert not list(two.glob("*.partial.jsonl")) and (two / "helper-1.log").is_file()
