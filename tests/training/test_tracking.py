# SPDX-License-Identifier: Apache-2.0
import json
import sys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from r1_mllm.records import Completion, Example, Grade, Group, Prompt
from r1_mllm.report.pictures import READ_COLOR, TRUE_COLOR, draw_boxes
from r1_mllm.training import gallery
from r1_mllm.training.trackers import Outlet
from r1_mllm.training.tracking import Tracker, completion_rows, plain


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


def with_picture(tmp_path):
    group = scored_group()
    Image.new("RGB", (640, 320), "white").save(tmp_path / "a.png")
    group.example = Example("rec", "the red ball", (40.0, 60.0, 440.0, 260.0), (str(tmp_path / "a.png"),))
    group.grades = [Grade(0.9, True, "iou", (500.0, 100.0, 600.0, 200.0)), Grade(0.0, False, "no_answer")]
    return group


def test_pictures_hold_true_and_predicted_boxes_and_texts_what_was_earned(tmp_path):
    sample, wordless = gallery.shown([with_picture(tmp_path), scored_group()])
    assert sample.picture.shape == (112, 224, 3) and wordless.picture is None  # 0.35 of the size; a picture not there
    for color, box in ((TRUE_COLOR, [14, 21, 154, 91]), (READ_COLOR, [175, 35, 210, 70])):
        rows, columns = np.nonzero((sample.picture == color).all(axis=2))
        assert [columns.min(), rows.min(), columns.max(), rows.max()] == box
    assert sample.text.splitlines() == [
        "the red ball [expected (40.0, 60.0, 440.0, 260.0)]",
        "#1 (reward 1.9, accuracy 0.9, format 1): [1, 2, 30, 40]",
        "#2 (reward 0, accuracy 0, cut at the limit): no idea",
    ]


def test_every_box_of_a_detection_is_drawn():
    picture = Image.new("RGB", (100, 50), "white")
    value = [{"bbox_2d": [10, 5, 30, 25], "label": "cat"}, {"bbox_2d": [60, 10, 90, 40], "label": "dog"}, "none"]
    draw_boxes(picture, (100, 50), value, TRUE_COLOR)
    rows, columns = np.nonzero((np.asarray(picture) == TRUE_COLOR).all(axis=2))
    assert set(columns) == {*range(10, 31), *range(60, 91)} and set(rows) == {*range(5, 41)}


def test_visualdl_gets_pictures_and_texts_some_fifty_times_a_run_and_goes_on_with_them(tmp_path, capsys):
    reader = pytest.importorskip("visualdl").LogReader
    for first, last in ((0, 5), (5, 9)):
        tracker = Tracker(tmp_path, total_steps=100, first_step=first)
        for step in range(first + 1, last + 1):
            tracker.completions(step, [with_picture(tmp_path), scored_group()])
        tracker.close()
    assert capsys.readouterr().out == ""
    (log,) = (tmp_path / "logs").glob("vdlrecords.*.log")
    read = reader(file_path=str(log))
    assert [record.id for record in read.get_data("image", "pictures/0")] == [1, 2, 4, 6, 8]
    assert [record.id for record in read.get_data("text", "answers/1")] == [1, 2, 4, 6, 8]
    assert "pictures/1" not in read.get_tags()["image"]  # its picture could not be read
    with Image.open(BytesIO(read.get_data("image", "pictures/0")[-1].image.encoded_image_string)) as image:
        assert (np.asarray(image.convert("RGB")) == TRUE_COLOR).all(axis=2).any()


def test_a_tracker_that_fails_over_pictures_is_dropped_and_the_completions_stay(tmp_path, capsys):
    tracker = Tracker(tmp_path, report_to=("none",))

    def fail(step, samples):
        raise OSError(28, "No space left on device")

    tracker._trackers["visualdl"] = Outlet(lambda step, values: None, lambda: None, fail)
    for step in (1, 2):
        tracker.completions(step, [scored_group()])
    tracker.close()
    assert capsys.readouterr().err.count("visualdl failed") == 1
    assert [row["step"] for row in lines(tmp_path / "completions.jsonl")] == [1, 1, 2, 2]


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
