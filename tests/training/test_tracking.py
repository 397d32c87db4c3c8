# SPDX-License-Identifier: Apache-2.0
import json
import sys

import numpy as np
import pytest

from r1_mllm.records import Completion, Example, Grade, Group, Prompt
from r1_mllm.training.tracking import Outlet, Tracker, completion_rows, plain


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def scored_group():
    ids = np.array([5, 6, 7])
    prompt = Prompt(ids=ids, positions=np.zeros((3, 3), int), next_position=3, text="<user>the red ball")
    return Group(
        example=Example("rec", "the red ball", (1.0, 2.0, 30.5, 40.0), ("a/1.jpg",), meta={"id": 17}),
        prompt=prompt,
        completions=[
            Completion(ids, np.zeros(3, np.float32), "[1, 2, 30, 40]", True),
            Completion(ids[:1], np.zeros(1, np.float32), "no idea", False),
        ],
        parts={"accuracy": np.array([0.9, 0.0]), "format": np.array([1.0, np.nan])},
        grades=[Grade(0.9, True, "iou", (1.0, 2.0, 30.0, 40.0)), Grade(0.0, False, "no_answer")],
        rewards=np.array([1.9, 0.0]),
        advantages=np.array([1.0, -1.0]),
    )


def test_each_completion_is_one_line_with_question_answer_and_earnings(tmp_path):
    tracker = Tracker(tmp_path, report_to=("none",))
    tracker.completions(3, [scored_group()])
    tracker.close()
    first, second = lines(tmp_path / "completions.jsonl")
    assert (first["step"], first["id"], first["image"], first["prompt"]) == (3, 17, "a/1.jpg", "<user>the red ball")
    assert first["rewards"] == {"accuracy": 0.9, "format": 1.0} and first["reward"] == 1.9
    assert first["extracted"] == [1, 2, 30, 40] and first["ground_truth"] == [1, 2, 30.5, 40]
    assert second["rewards"]["format"] is None and second["advantage"] == -1 and second["finished"] is False
    assert second["extracted"] is None and second["decided_by"] == "no_answer" and second["num_tokens"] == 1


def test_pictures_held_in_memory_are_described_not_dumped():
    group = scored_group()
    group.example = Example("counting", "how many", 3, (b"12345", b"123"))
    row = next(completion_rows(1, group))
    assert row["image"] == "<5 bytes>" and row["images"] == ["<5 bytes>", "<3 bytes>"]


def test_metrics_are_strict_json_even_when_not_finite(tmp_path):
    tracker = Tracker(tmp_path, report_to=("none",))
    tracker.log(1, {"reward": np.float32(0.5), "loss": float("nan"), "grad_norm": float("inf")})
    tracker.close()
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 1, "reward": 0.5, "loss": None, "grad_norm": None}]


def test_visualdl_shows_the_same_numbers_and_goes_on_in_the_same_file_after_a_resume(tmp_path):
    reader = pytest.importorskip("visualdl").LogReader
    for first, last in ((0, 3), (3, 5)):
        tracker = Tracker(tmp_path, first_step=first)
        for step in range(first + 1, last + 1):
            tracker.log(step, {"reward": step / 4})
        tracker.close()
        if first == 0:
            (log,) = (tmp_path / "logs").glob("vdlrecords.*.log")
            log.rename(tmp_path / "logs" / "vdlrecords.100.log")  # as if it had been some time ago
    (log,) = (tmp_path / "logs").glob("vdlrecords.*.log")
    read = reader(file_path=str(log)).get_data("scalar", "reward")
    assert [(record.id, record.value) for record in read] == [(step, step / 4) for step in (1, 2, 3, 4, 5)]


def test_a_failing_tracker_is_named_once_and_the_metrics_go_on(tmp_path, capsys):
    tracker = Tracker(tmp_path, report_to=("none",))

    def fail(step, values):
        raise RuntimeError("disk on fire")

    tracker._trackers["visualdl"] = Outlet(fail, tracker.close)
    for step in (1, 2, 3):
        tracker.log(step, {"reward": 1.0})
    tracker.close()
    assert capsys.readouterr().err.count("disk on fire") == 1
    assert [row["step"] for row in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_a_tracker_that_is_not_installed_costs_one_line_that_says_how_to_install_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    Tracker(tmp_path, report_to=("wandb", "wandb", "nonsense")).close()
    told = capsys.readouterr().err
    assert told.count("pip install") == 1 and 'wandb>=0.19"' in told and "nonsense" in told


def test_other_ranks_write_nothing(tmp_path):
    tracker = Tracker(tmp_path / "run", rank=1)
    tracker.log(1, {"reward": 1.0})
    tracker.completions(1, [scored_group()])
    tracker.close()
    assert not (tmp_path / "run").exists()


def test_without_a_terminal_progress_is_plain_lines_with_reward_speed_and_remaining_time(tmp_path, capsys):
    tracker = Tracker(tmp_path, report_to=("none",), total_steps=10)
    tracker.log(4, {"reward": 0.4321, "tokens_per_second": 123.4, "loss": 0.01})
    tracker.log(4, {"eval/accuracy": 51.5})
    tracker.close()
    step, evaluation = capsys.readouterr().err.splitlines()
    assert step.startswith("step 4/10  reward 0.4321") and "tokens/s 123" in step and "ETA" in step
    assert evaluation == "step 4: eval/accuracy 51.5"


def test_whatever_a_task_extracts_becomes_json():
    value = {"boxes": [(np.float32(1.5), np.int64(2))], "labels": {"a"}, "other": complex(1, 2)}
    assert plain(value) == {"boxes": [[1.5, 2]], "labels": ["a"], "other": "(1+2j)"}
