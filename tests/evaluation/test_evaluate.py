# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from PIL import Image

from r1_mllm.config import RewardConfig
from r1_mllm.evaluation.evaluate import evaluate, plain, summarise
from r1_mllm.tasks import get_task


@pytest.fixture
def boxes(tmp_path):
    """Two pictures of 200 x 100 px; the scripted view shows them at 100 x 50."""
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    rows = [
        {"image": "a.png", "problem": "the left thing", "solution": [20, 40, 80, 90], "id": "one"},
        {"image": "a.png", "problem": "the right thing", "solution": [100, 10, 190, 60], "id": "two"},
        {"image": "a.png", "problem": "nothing", "solution": [0, 0, 10, 10], "id": "three"},
    ]
    return [get_task("rec").example(row, f"rows:{i}", str(tmp_path)) for i, row in enumerate(rows)]


ANSWERS = [
    "<think>x</think><answer>[10, 20, 40, 45]</answer>",  # exact after the way back to 200 x 100
    "<think>x</think><answer>[100, 10, 190, 60]</answer>",  # right only if nobody converted it
    "<think>x</think><answer>I do not know</answer>",
]


def test_a_box_is_judged_in_pixels_of_the_original_picture(boxes, scripted_engine, plain_processor):
    result = evaluate(scripted_engine(ANSWERS), plain_processor, boxes, reward_config=RewardConfig(), batch_size=2)
    assert [row["correct"] for row in result.rows] == [1, 0, 0]
    assert result.rows[0]["extracted_answer"] == [20.0, 40.0, 80.0, 90.0]
    assert result.rows[0]["score"] == pytest.approx(1.0)
    assert result.rows[2]["extracted_answer"] is None
    assert result.accuracy == pytest.approx(100 / 3)


def test_every_row_tells_its_own_question_picture_and_sizes(boxes, scripted_engine, plain_processor):
    rows = evaluate(scripted_engine(ANSWERS), plain_processor, boxes, batch_size=2).rows
    assert [row["question"] for row in rows] == ["the left thing", "the right thing", "nothing"]
    assert [row["id"] for row in rows] == ["one", "two", "three"]
    assert "the right thing" in rows[1]["prompt"] and rows[1]["prompt"].startswith("<user>")
    assert rows[0]["image"].endswith("a.png")
    assert (rows[0]["image_size"], rows[0]["input_size"]) == ([200, 100], [100, 50])
    assert rows[1]["ground_truth"] == [100, 10, 190, 60]


def test_the_engine_gets_batches_and_the_settings(boxes, scripted_engine, plain_processor):
    engine = scripted_engine(ANSWERS)
    seen = []
    evaluate(engine, plain_processor, boxes, batch_size=2, max_new_tokens=17, seed=5, on_rows=seen.append)
    assert engine.calls == [(2, 1, 5, True, 17), (1, 1, 5, True, 17)]
    assert [len(rows) for rows in seen] == [2, 1]


def test_an_unknown_setting_is_an_error(boxes, scripted_engine, plain_processor):
    with pytest.raises(TypeError, match="batchsize"):
        evaluate(scripted_engine(ANSWERS), plain_processor, boxes, batchsize=2)


def test_a_picture_that_cannot_be_read_names_the_row(boxes, scripted_engine):
    class Refusing:
        box_units = "seen_px"

        def encode(self, messages, images):
            raise ValueError(f"{images[0]}: truncated")

    with pytest.raises(ValueError, match=r"rows:0: .*a\.png: truncated"):
        evaluate(scripted_engine(ANSWERS), Refusing(), boxes)


def test_the_threshold_of_the_configuration_decides(boxes, scripted_engine, plain_processor):
    half = ["<answer>[10, 20, 40, 36]</answer>"]  # 16 of 25 rows of the box: IoU 0.64
    for threshold, correct in ((0.6, 1), (0.7, 0)):
        config = RewardConfig(iou_threshold=threshold)
        result = evaluate(scripted_engine(half), plain_processor, boxes[:1], reward_config=config)
        assert (result.num_correct, result.rows[0]["score"]) == (correct, pytest.approx(0.64))


def test_accuracy_is_percent_with_the_wilson_interval():
    rows = [{"correct": int(i < 3), "score": 0.5, "decided_by": "iou"} for i in range(10)]
    result = summarise(rows)
    assert result.accuracy == 30.0
    # (p + z2/2n -+ z sqrt(p q / n + z2/4n2)) / (1 + z2/n) with z = 1.959964, p = 0.3, n = 10
    assert result.interval == pytest.approx((10.779, 60.322), abs=2e-3)
    assert (result.mean_score, result.decided_by) == (0.5, {"iou": 10})


def test_no_rows_is_an_error_that_says_where_to_look():
    with pytest.raises(ValueError, match="sample_num"):
        summarise([])


def test_a_results_file_has_the_keys_earlier_systems_wrote(tmp_path):
    summarise([{"correct": 1, "score": 1.0, "decided_by": "exact"}]).write(tmp_path / "logs/x.json", dataset="d")
    content = json.loads((tmp_path / "logs/x.json").read_text())
    assert content["accuracy"] == 100.0 and content["results"][0]["correct"] == 1 and content["dataset"] == "d"
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["x.json"]


def test_answers_become_types_json_knows():
    assert plain({"a": (1, 2.5), "b": frozenset({"y", "x"})}) == {"a": [1, 2.5], "b": ["x", "y"]}
    assert plain(object).startswith("<class")
