# SPDX-License-Identifier: Apache-2.0
"""The evaluation commands: choice of data, rows and names; then the predecessor's README commands word for word."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from r1_mllm import runtime
from r1_mllm.config import EvalConfig
from r1_mllm.data.synthetic import write_splits
from r1_mllm.evaluation.command import DataSet, draw, find_data, guess_task, load_set, main, results_path

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "tests/golden/cases/e2e/checkpoint"

REC_BASELINE = r"""
python paddlemix/examples/r1_mllm/eval/test_rec.py \
    --model_name "Qwen2.5-VL-3B-Instruct" \
    --method "baseline" \
    --model_path "Qwen/Qwen2.5-VL-3B-Instruct" \
    --data_root "data/rec_jsons_processed" \
    --image_root "data/coco" \
    --test_datasets refcoco_val refcocop_val refcocog_val \
    --batch_size 32 \
    --sample_num 500 \
    --steps 300 \
    --seed 42
"""
REC_R1 = r"""
python paddlemix/examples/r1_mllm/eval/test_rec.py \
    --model_name "Qwen2.5-VL-3B-Instruct" \
    --method "r1" \
    --model_path "Qwen/Qwen2.5-VL-3B-Instruct" \
    --data_root "data/rec_jsons_processed" \
    --image_root "data/refgta" \
    --test_datasets refgta_subsample \
    --batch_size 32 \
    --sample_num 500 \
    --steps 300 \
    --seed 42
"""
COUNTING_R1 = r"""
python paddlemix/examples/r1_mllm/eval/test_r1-v.py \
    --model_name "Qwen2.5-VL-3B-Instruct" \
    --method "r1" \
    --model_path "Qwen/Qwen2.5-VL-3B-Instruct" \
    --data_root "data/" \
    --image_root "data/superclevr_200/" \
    --test_datasets superclevr_test200_counting_problems \
    --batch_size 32 \
    --steps 500 \
    --seed 42
"""
GEOQA_R1 = r"""
python paddlemix/examples/r1_mllm/eval/test_r1-v.py \
    --model_name "Qwen2.5-VL-3B-Instruct" \
    --method "r1" \
    --model_name "Qwen2.5-VL-3B-Instruct" \
    --model_path "Qwen/Qwen2.5-VL-3B-Instruct" \
    --data_root "data/" \
    --image_root "data" \
    --test_datasets geoqa_test_prompts \
    --batch_size 32 \
    --steps 500 \
    --seed 42
"""
EXPECTED = {
    "rec-baseline": (
        REC_BASELINE,
        {
            "logs/rec_results_refcoco_val_qwen2.5-vl-3b-instruct_baseline_300.json": 4,
            "logs/rec_results_refcocop_val_qwen2.5-vl-3b-instruct_baseline_300.json": 4,
            "logs/rec_results_refcocog_val_qwen2.5-vl-3b-instruct_baseline_300.json": 4,
        },
    ),
    "rec-r1": (REC_R1, {"logs/rec_results_refgta_subsample_qwen2.5-vl-3b-instruct_r1_300.json": 4}),
    "counting": (
        COUNTING_R1,
        {"logs/r1-v_results_superclevr_test200_counting_problems_qwen2.5-vl-3b-instruct_r1_500.json": 3},
    ),
    "geoqa": (GEOQA_R1, {"logs/r1-v_results_geoqa_test_prompts_qwen2.5-vl-3b-instruct_r1_500.json": 3}),
}
KEYS = {"question", "ground_truth", "model_output", "extracted_answer", "correct", "id", "image", "prompt"}


@pytest.fixture
def workplace(project, monkeypatch):
    """The project folder with a copy of the program inside an otherwise empty PaddleMIX tree and a tiny checkpoint."""
    place = project / "paddlemix/examples/r1_mllm"
    for part in ("r1_mllm", "eval"):
        shutil.copytree(ROOT / part, place / part)  # with what is compiled already
    shutil.copytree(CHECKPOINT, project / "Qwen/Qwen2.5-VL-3B-Instruct")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return project


def type_in(command, folder, *more):
    words = shlex.split(command.replace("\\\n", " "))
    assert words[0] == "python"
    return subprocess.run([sys.executable, *words[1:], *more], cwd=folder, capture_output=True, text=True, timeout=250)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_readme_command_writes_its_results_files(name, workplace):
    command, files = EXPECTED[name]
    ended = type_in(command, workplace)
    assert ended.returncode == 0, ended.stderr
    for path, num in files.items():
        content = json.loads((workplace / path).read_text(encoding="utf-8"))
        rows = content["results"]
        assert len(rows) == content["num"] == num
        assert content["accuracy"] == pytest.approx(100 * sum(row["correct"] for row in rows) / num)
        assert KEYS <= set(rows[0])
        assert len({row["image"] for row in rows}) == num
    assert not list((workplace / "logs").glob("*.partial*"))


def test_a_run_goes_on_where_it_was_killed_and_a_finished_one_is_not_repeated(workplace):
    assert type_in(REC_R1, workplace, "--max_new_tokens", "8", "--batch_size", "1").returncode == 0
    (path,) = (workplace / "logs").glob("*.json")
    whole = json.loads(path.read_text(encoding="utf-8"))
    again = type_in(REC_R1, workplace, "--max_new_tokens", "8", "--batch_size", "2")
    assert "has these results already" in again.stdout
    marked = [{**row, "model_output": "kept"} for row in whole["results"][:3]]
    lines = [{"fingerprint": whole["fingerprint"]}, *marked]
    path.with_suffix(".partial.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path.unlink()
    ended = type_in(REC_R1, workplace, "--max_new_tokens", "8")
    assert "3 rows are answered already" in ended.stdout
    rows = json.loads(path.read_text(encoding="utf-8"))["results"]
    assert [row["model_output"] for row in rows[:3]] == ["kept"] * 3
    assert rows[3] == whole["results"][3]


@pytest.mark.parametrize("script", ["test_rec.py", "test_r1-v.py", "test_od_r1.py"])
def test_help_needs_no_paddle(script, tmp_path):
    (tmp_path / "paddle.py").write_text("raise RuntimeError('paddle was imported')")
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin"}
    ended = subprocess.run(
        [sys.executable, ROOT / "eval" / script, "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    for flag in "model_name model_path data_root image_root test_datasets batch_size sample_num steps".split():
        assert f"--{flag}" in ended.stdout
    for flag in ("method", "seed", "dtype", "attn_implementation"):
        assert f"--{flag}" in ended.stdout


def config_for(project, **changes):
    settings = {
        "model_path": "Qwen/Qwen2.5-VL-3B-Instruct",
        "data_root": str(project / "data/rec_jsons_processed"),
        "image_root": str(project / "data/coco"),
    }
    return EvalConfig(**{**settings, **changes})


def test_sample_num_takes_that_many_by_the_seed(project):
    config = config_for(project, sample_num=2, seed=3)
    first = load_set("refcoco_val", config)
    assert (len(first.examples), first.num_rows, first.task) == (2, 4, "rec")
    assert [example.question for example in first.examples] == [
        example.question for example in load_set("refcoco_val", config).examples
    ]


def test_the_draw_is_the_predecessors():
    import random

    table = list(range(20))
    random.seed(42)
    shuffled = list(table)
    random.shuffle(shuffled)
    assert draw(table, 5, 42) == shuffled[:5]
    assert draw(table, 0, 42) == draw(table, 20, 42) == table
    with pytest.raises(ValueError, match="negative"):
        draw(table, -1, 42)


def test_sample_num_is_honoured_for_the_other_script_too(project):
    config = config_for(project, data_root=str(project / "data"), image_root=str(project / "data"), sample_num=2)
    loaded = load_set("geoqa_test_prompts", config)
    assert len(loaded.examples) == 2 and loaded.task == "geometry"


def test_the_answers_tell_the_task():
    assert guess_task([{"solution": [1, 2, 3, 4]}]) == "rec"
    assert guess_task([{"solution": "cat, dog", "task": "classify"}] * 2) == "classification"
    assert guess_task([{"accu_reward_method": "odLength"}, {"accu_reward_method": "od_ap"}]) == "open_detection"
    with pytest.raises(ValueError, match=r"several tasks \(geometry, gui\); give --task"):
        guess_task([{"accu_reward_method": "all_match"}, {"accu_reward_method": "math"}])
    assert guess_task([{"answers": ["2", "3"], "correct_answer": "3"}, {"choices": ["2"], "answer": "A"}]) == "spatial"
    assert guess_task([{"ground_truth": 4}, {"ground_truth": 11}]) == "counting"
    assert guess_task([{"ground_truth": 4}, {"ground_truth": "140\u00b0"}]) == "geometry"
    assert guess_task([{"solution": "<answer>[1, 2, 3.5, 4]</answer>"}]) == "rec"
    assert guess_task([{"solution": "<answer> 4 </answer>"}]) == "counting"


def test_of_a_folder_with_several_splits_the_held_out_one_is_asked(tmp_path):
    write_splits("counting", 6, tmp_path / "dots", num_test=3, container="parquet")
    config = EvalConfig(model_path="x", data_root=str(tmp_path), test_datasets=("dots",))
    data_set = load_set("dots", config)
    assert (len(data_set.examples), data_set.task) == (3, "counting")
    (tmp_path / "dots/data/test-00000-of-00001.parquet").rename(tmp_path / "dots/data/more-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"none of its splits \(more, train\)"):
        load_set("dots", config)


def test_a_missing_data_set_names_the_paths_tried_and_the_cure(project):
    with pytest.raises(ValueError, match=r"refcoco_test.*data_root.*r1-mllm data prepare"):
        find_data("refcoco_test", str(project))


def test_missing_pictures_are_listed(project):
    (project / "data/coco/train2014/COCO_train2014_000000000002.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 pictures cannot.*image_root(.|\n)*000000000002\.jpg is missing"):
        load_set("refcoco_val", config_for(project))


def test_pictures_outside_the_root_are_refused_unless_allowed(project):
    path = project / "data/rec_jsons_processed/refcoco_val.json"
    rows = json.loads(path.read_text())
    rows[0]["image"] = "../refgta/" + rows[0]["image"]
    path.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="leaves the image root"):
        load_set("refcoco_val", config_for(project))
    assert len(load_set("refcoco_val", config_for(project, allow_outside_image_root=True)).examples) == 4


def test_wrong_input_ends_with_one_message_and_an_exit_code(project, capsys):
    words = ["--model_path", str(project / "nothing"), "--data_root", str(project / "data/rec_jsons_processed")]
    for more, code, told in (
        (["--test_datasets", "absent"], runtime.DATA, "absent"),
        (["--test_datasets", "refcoco_val", "--image_root", str(project / "data/coco")], runtime.MODEL, "nothing"),
        (["--sample_nums", "3"], runtime.USAGE, "--sample_num"),
    ):
        with pytest.raises(SystemExit) as stop:
            main("", [*words, *more], words=["--task=rec"])
        assert stop.value.code == code
        assert told in capsys.readouterr().err


def test_a_cut_picture_ends_with_one_message_and_keeps_the_rows_before_it(project, capsys):
    folder = project / "data/rec_jsons_processed"
    picture = project / "data/coco/train2014/COCO_train2014_000000000003.jpg"
    picture.write_bytes(picture.read_bytes()[:-40])
    words = ["--model_path", str(CHECKPOINT), "--data_root", str(folder), "--image_root", str(project / "data/coco")]
    words += ["--test_datasets", "refcoco_val", "--batch_size", "1", "--logs_dir", str(project / "logs")]
    with pytest.raises(SystemExit) as stop:
        main("", [*words, "--max_new_tokens", "2"], words=["--task=rec"])
    assert stop.value.code == runtime.DATA
    assert "refcoco_val.json:1 (row 3): " in capsys.readouterr().err
    (kept,) = (project / "logs").glob("*.partial.jsonl")
    assert len(kept.read_text(encoding="utf-8").splitlines()) == 1 + 2


def test_results_files_keep_their_names():
    data_set = DataSet("refcoco_val", Path("x.json"), "rec", [], 0)
    config = EvalConfig(model_path="a/Some-Model", method="baseline", steps=7)
    assert results_path(config, data_set) == Path("logs/rec_results_refcoco_val_some-model_baseline_7.json")
    named = EvalConfig(model_path="a", model_name="Qwen/X", results_name="r1-v_results")
    assert results_path(named, data_set).name == "r1-v_results_refcoco_val_qwen_x_r1_100.json"
