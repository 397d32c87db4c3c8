# SPDX-License-Identifier: Apache-2.0
"""CV-Bench: categories by hand, earlier answers graded again, and the command on rendered scenes with a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from r1_mllm import runtime
from r1_mllm.data.synthetic import write_splits
from r1_mllm.evaluation import cvbench
from r1_mllm.evaluation.cvbench import TOTAL, CvBenchConfig, files, main, run, summary

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "tests/golden/cases/e2e/checkpoint"
OLD_KEYS = {"question", "options", "task", "ground_truth", "response", "model_answer", "correct"}


def graded(**counts):
    """Rows from `Category_Source=(right, all)`."""
    made = []
    for name, (right, num) in counts.items():
        task, source = name.split("_")
        kind = cvbench.CATEGORIES[task]
        made += [{"task": task, "type": kind, "source": source, "correct": int(i < right)} for i in range(num)]
    return made


def test_accuracies_are_those_counted_by_hand():
    found = summary(
        graded(
            Count_ADE20K=(3, 4), Count_COCO=(1, 4), Relation_COCO=(5, 6), Depth_Omni3D=(2, 5), Distance_Omni3D=(4, 5)
        )
    )
    assert found["accuracy"] == pytest.approx(
        {TOTAL: 62.5, "Count_acc": 50, "Relation_acc": 500 / 6, "Depth_acc": 40, "Distance_acc": 80}
        | {"2D_acc": 900 / 14, "3D_acc": 60}
    )
    assert found["num"] == {TOTAL: 24, "Count_acc": 8, "Relation_acc": 6, "Depth_acc": 5, "Distance_acc": 5} | {
        "2D_acc": 14,
        "3D_acc": 10,
    }
    assert found["by_source"] == {"ADE20K": 75, "COCO": 60, "Omni3D": 60}
    assert found["cv_bench"] == pytest.approx((75 + 60) / 4 + 60 / 2)
    # Wilson, 4 of 8: 0.5 +- 1.96 sqrt(0.25/8 + 1.96^2/256) / (1 + 1.96^2/8)
    assert found["interval"]["Count_acc"] == pytest.approx([21.52, 78.48], abs=0.01)


def test_an_absent_category_has_no_accuracy_and_divides_nothing():
    found = summary(graded(Depth_Omni3D=(1, 2)))
    assert found["accuracy"]["Count_acc"] is None and found["accuracy"]["2D_acc"] is None
    assert found["accuracy"][TOTAL] == found["accuracy"]["3D_acc"] == 50 and found["cv_bench"] is None


def precomputed(folder, *responses):
    rows = [
        {"question": f"q{i}", "options": ["2", "3"], "task": "Count", "ground_truth": "(B)", "response": text}
        for i, text in enumerate(responses)
    ]
    path = folder / "old.json"
    path.write_text(json.dumps({"results": rows, "accuracy": {}}))
    return path


def test_earlier_answers_are_graded_again_up_to_the_last_one(tmp_path, capsys):
    path = precomputed(tmp_path, "<think>x</think><answer>3</answer>", "three", "<answer>(B)</answer>")
    main("", ["--precomputed_json", str(path), "--output_dir", str(tmp_path / "out")])
    strict = json.loads((tmp_path / "out" / "CVBench_result_old_reasoning.json").read_text())
    assert [row["correct"] for row in strict["results"]] == [1, 0, 1] and set(strict["results"][0]) >= OLD_KEYS
    assert "Total Accuracy: 66.67% (3 rows" in capsys.readouterr().out
    main("", ["--precomputed_json", str(path), "--output_dir", str(tmp_path / "out"), "--no-use_reasoning_prompt"])
    lenient = json.loads((tmp_path / "out" / "CVBench_result_old_no_reasoning.json").read_text())
    assert [row["model_answer"] for row in lenient["results"]] == ["3", "3", "3"]
    assert lenient["accuracy"]["Count_acc"] == 100 and lenient["accuracy"]["Depth_acc"] is None
    assert lenient["args"]["use_reasoning_prompt"] is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "either --model_path MODEL or --precomputed_json FILE"),
        (["--model_path", "m", "--chat_template", "r1_zero", "--no-use_reasoning_prompt"], "--chat_template dialogue"),
        (["--model_path", "m", "--data_root", "nowhere"], "scripts/prepare_sat.sh"),
        (["--precomputed_json", "nowhere.json"], "cannot be read as JSON"),
    ],
)
def test_wrong_input_ends_with_one_message(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main("", words)
    assert ended.value.code in (runtime.USAGE, runtime.DATA) and message in capsys.readouterr().err


def test_a_row_of_another_benchmark_is_named(tmp_path):
    path = precomputed(tmp_path, "3")
    content = json.loads(path.read_text())
    content["results"][0]["task"] = "Colour"
    path.write_text(json.dumps(content["results"]))
    with pytest.raises(runtime.Stop, match=r"result 1: task 'Colour' is none of Count, Relation"):
        run(CvBenchConfig(precomputed_json=str(path), output_dir=str(tmp_path)))


def test_files_are_found_in_the_published_and_the_rendered_layout(tmp_path):
    write_splits("spatial", 2, tmp_path / "made", 2, container="parquet")
    assert [path.name for path in files(str(tmp_path / "made"))] == ["test-00000-of-00001.parquet"]
    for name in ("test_3d.parquet", "test_2d.parquet"):
        (tmp_path / name).touch()
    assert [path.name for path in files(str(tmp_path))] == ["test_2d.parquet", "test_3d.parquet"]
    assert files(str(tmp_path / "test_2d.parquet")) == [tmp_path / "test_2d.parquet"]


WORDS = (
    *("--model_path", str(CHECKPOINT), "--bs", "4", "--output_dir", "out", "--use_reasoning_prompt"),
    *("--data_root", "made", "--max_new_tokens", "4", "--chat_template", "r1_zero"),
)


def check_results(folder):
    content = json.loads((folder / "out" / "CVBench_result_checkpoint_reasoning.json").read_text())
    assert len(content["results"]) == content["num"][TOTAL] == 6 and set(content["results"][0]) >= OLD_KEYS
    assert all(row["response"].startswith("<think>") for row in content["results"])
    assert len({row["id"] for row in content["results"]}) == 6
    assert content["args"]["bs"] == 4


def test_a_tiny_model_is_evaluated_and_not_asked_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_splits("spatial", 2, tmp_path / "made", 6, container="parquet")
    main("", WORDS)
    check_results(tmp_path)
    assert "has these results already" not in capsys.readouterr().out
    main("", WORDS)
    assert "has these results already" in capsys.readouterr().out


@pytest.mark.slow
def test_the_script_runs_from_anywhere(tmp_path):
    write_splits("spatial", 2, tmp_path / "made", 6, container="parquet")
    command = [sys.executable, str(ROOT / "eval/test_cvbench.py"), *WORDS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    check_results(tmp_path)
