# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm data check` and `--dry_run` find what is wrong before a run does, without Paddle and without weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from r1_mllm import cli, rewards
from r1_mllm.config import DataConfig, GrpoConfig, RewardConfig
from r1_mllm.config.flags import described, origins, parse, take_switch
from r1_mllm.doctor import plan, scan, selftest
from r1_mllm.records import Example, View
from r1_mllm.runtime import DATA, Stop

CHECKPOINT = Path(__file__).parents[1] / "golden/cases/e2e/checkpoint"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def folder(tmp_path):
    for i, color in enumerate(["red", "green", "blue"]):
        Image.new("RGB", (56 + 28 * i, 56), color).save(tmp_path / f"{i}.png")
    (tmp_path / "same.png").write_bytes((tmp_path / "0.png").read_bytes())
    (tmp_path / "cut.png").write_bytes((tmp_path / "2.png").read_bytes()[:60])
    return tmp_path


def count(image, solution, problem="How many?"):
    return {"problem": problem, "image": image, "solution": solution}


def test_every_kind_of_bad_row_is_counted_and_named(folder):
    rows = [count("0.png", 1), count("gone.png", 2), count("cut.png", 3), count("1.png", "many"), count("same.png", 4)]
    data = DataConfig(task="counting", dataset_name=write(folder / "train.jsonl", rows))
    found = scan.scan(data)
    assert [example.answer for example in found.examples] == [1, 4]
    lines = "\n".join(scan.describe(found))
    assert "BAD: 1 bad rows, 2 missing or unreadable pictures" in lines
    for place in ("train.jsonl:2", "train.jsonl:3", "train.jsonl:4"):
        assert place in lines
    (repeat,) = found.repeats  # the same pixels under another name, with another answer
    assert repeat[0].endswith(":5") and repeat[1].endswith(":1") and repeat[2] is False
    assert "ANOTHER ANSWER" in lines


def test_long_prompts_are_dropped_and_the_histogram_holds_all(folder):
    rows = [count("0.png", i, f"How {'very ' * i}many?") for i in range(9)]
    data = DataConfig(task="counting", dataset_name=write(folder / "train.jsonl", rows))
    found = scan.scan(data, length=lambda example: 10 * example.answer, limit=50)
    assert (len(found.examples), found.num_dropped, found.lengths) == (6, 3, [10 * i for i in range(9)])
    assert "  dropped for more than 50 prompt tokens: 3 (33.3 %)" in scan.describe(found)


def test_a_histogram_counts_everything_once():
    lengths = [3, 3, 4, 10, 11, 90]
    rows = [line.split() for line in scan.histogram(lengths)]
    assert sum(int(row[3]) for row in rows) == 6
    assert [row[:4] for row in rows if row[3] != "0"] == [["3", "to", "13", "5"], ["80", "to", "90", "1"]]
    assert scan.histogram([7]) == ["         7 to      7       1 " + "#" * 40]


def test_two_sets_that_share_a_question_of_the_same_picture_are_told(folder, capsys):
    train = write(folder / "train.jsonl", [count("0.png", 1), count("1.png", 2)])
    test = write(folder / "test.jsonl", [count("same.png", 1), count("2.png", 3)])
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "check", train, test, "--task", "counting", "--image_root", str(folder)])
    assert ended.value.code == DATA
    assert f"BAD: 1 rows of {test} are also in {train}" in capsys.readouterr().out


def test_a_clean_set_passes_and_counts_tokens(folder, capsys):
    train = write(folder / "train.jsonl", [count("0.png", 1), count("1.png", 2), count("2.png", 5)])
    cli.main(["data", "check", train, "--task=counting", "--model_name_or_path", str(CHECKPOINT)])
    out = capsys.readouterr().out
    assert "gold answers: 3 of 3 score; another row's gold answer: 0 of 3 score" in out
    assert "3 picture files, each decoded: smallest 56x56, median 84x56, largest 112x56 px" in out
    assert "prompt tokens: " in out and "everything checked is in order" in out


@pytest.mark.parametrize(
    ("task", "form", "answers"),
    [
        ("rec", "open", [(10.0, 20.0, 30.0, 50.0), (60.0, 60.0, 70.0, 90.0)]),
        ("counting", "open", [3, 4]),
        ("geometry", "open", ["2.5", "3"]),
        ("math_boxed", "open", ["\\frac{1}{2}", "7"]),
        ("counting", "judge", [True, False]),
        ("open_detection", "open", [[{"bbox_2d": [1.0, 2.0, 30.0, 40.0], "label": "cup"}], []]),
    ],
)
def test_gold_answers_score_and_foreign_ones_do_not(task, form, answers):
    examples = [Example(task, f"q{i}", answer, form=form) for i, answer in enumerate(answers)]
    config = RewardConfig(length_limit=64)
    found = selftest.run(examples, config, {name: rewards.load_reward(name) for name in config.reward_funcs})
    assert found.ok and (found.num_gold, found.refused, found.num_foreign, found.accepted) == (2, [], 2, [])
    assert all(pair[0] == 1.0 for pair in found.parts["format"])


def test_boxes_are_written_in_the_units_of_the_model():
    view = View((200, 100), (56, 56), "per_mille")
    example = Example("rec", "q", (20.0, 10.0, 100.0, 50.0), ("a.png",))
    assert "[100.0, 100.0, 500.0, 500.0]" in selftest.written(example, example.answer, (view,))
    funcs = {"accuracy": rewards.accuracy}
    found = selftest.run([example], RewardConfig(length_limit=64), funcs, lambda example: (view,))
    assert found.num_gold == 1 and not found.refused


def test_a_reward_that_takes_every_answer_is_found_out():
    examples = [Example("counting", f"q{i}", i) for i in range(4)]

    def generous(group, config):
        return [1.0] * len(group.completions)

    found = selftest.run(examples, RewardConfig(length_limit=64), {"accuracy": rewards.accuracy, "mine": generous})
    assert found.ok  # the task's own verdict is right ...
    assert "  reward mine: gold 1.000, another row's 1.000 (means)" in selftest.describe(found)  # ... and this shows


def test_each_value_tells_where_it_is_from(tmp_path):
    (tmp_path / "run.yaml").write_text("rollout:\n  num_generations: 4\nmax_steps: 7\n")
    argv = ["--config", str(tmp_path / "run.yaml"), "--max_steps=9", "--deepspeed", "zero.json"]
    (tmp_path / "zero.json").write_text("{}")
    found = origins(GrpoConfig, argv[:3])
    assert (found["max_steps"], found["num_generations"], found["beta"]) == ("flag", argv[1], "default")
    config = parse(GrpoConfig, argv[:3], "r1-mllm grpo")
    lines = described(config, found)
    assert any(line.split() == ["max_steps", "9", "[flag]"] for line in lines[:3])
    assert origins(GrpoConfig, argv)["sharding"] == "flag --deepspeed zero.json"


def test_batches_and_steps_add_up():
    argv = "--per_device_train_batch_size 3 --gradient_accumulation_steps 2 --num_generations 4 --mini_batch_size 2 "
    argv += "--num_train_epochs 2 --max_completion_length 10"
    config = parse(GrpoConfig, argv.split(), "r1-mllm grpo")
    text = "\n".join(plan.arithmetic(config, 100, 2))
    assert "3 prompts x 2 accumulation x 2 processes = 12 prompts a rollout" in text
    assert "x 4 completions = 48 completions, at most 480 tokens; 3 optimizer steps" in text
    assert "100 examples: 9 rollouts an epoch" in text  # 100 / 12, rounded up
    assert "2 epochs: 54 optimizer steps, 2.00 epochs" in text
    assert "WARNING: a step takes 12 prompts, but there are only 5 examples" in "\n".join(plan.arithmetic(config, 5, 2))


def test_a_dry_run_shows_everything_and_writes_nothing(folder, capsys):
    train = write(folder / "train.jsonl", [count("0.png", 1), count("1.png", 2)])
    argv = ["grpo", "--dry_run", "--task", "counting", "--dataset_name", train, "--max_steps", "3"]
    cli.main([*argv, "--model_name_or_path", str(CHECKPOINT), "--output_dir", str(folder / "out")])
    out = capsys.readouterr().out
    for words in (
        "[flag]",
        "[default]",
        "gold answers: 2 of 2",
        "max_steps 3: 3 optimizer steps",
        "on a GPU:",
        "peak",
        "A100 80 GB SXM, ",
    ):
        assert words in out
    assert "| <|im_start|>user" in out and "4 of them visual" in out
    assert not (folder / "out").exists()


def test_an_evaluation_is_looked_at_before_it_runs(folder, capsys):
    rows = write(folder / "test.jsonl", [count("0.png", 1), count("1.png", 2), count("1.png", 3)])
    argv = [
        "eval",
        "--test_datasets",
        rows,
        "--task",
        "counting",
        "--sample_num",
        "2",
        "--logs_dir",
        str(folder / "out"),
    ]
    cli.main([*argv, "--model_path", str(CHECKPOINT), "--dry_run"])
    out = capsys.readouterr().out
    assert "test: 2 of 3 rows" in out and "task counting" in out and f"results: {folder / 'out'}" in out
    assert [line.split() for line in out.splitlines() if line.startswith("  sample_num")] == [
        ["sample_num", "2", "[flag]"]
    ]
    assert not (folder / "out").exists()
    write(folder / "test.jsonl", [count("gone.png", 1)])
    with pytest.raises(SystemExit) as ended:
        cli.main([*argv, "--model_path", str(CHECKPOINT), "--dry_run"])
    assert ended.value.code == DATA and "gone.png" in capsys.readouterr().err


def test_a_dry_run_of_broken_data_ends_as_the_run_would(folder, capsys):
    train = write(folder / "train.jsonl", [count("0.png", 1), count("gone.png", 2)])
    argv = ["grpo", "--task", "counting", "--dataset_name", train, "--model_name_or_path", str(CHECKPOINT)]
    with pytest.raises(SystemExit) as ended:
        cli.main([*argv, "--dry-run"])
    assert ended.value.code == DATA
    cli.main([*argv, "--dry_run", "True", "--data_policy", "quarantine", "--max_bad", "1"])


def test_a_dry_run_of_conversations_shows_what_is_learnt(folder, capsys):
    said = [{"role": "user", "content": "<image>What colour?"}, {"role": "assistant", "content": "It is red."}]
    train = write(folder / "talk.jsonl", [{"messages": said, "images": ["0.png"]}])
    cli.main(["sft", "--dry_run", "--dataset_name", train, "--model_name_or_path", str(CHECKPOINT)])
    out = capsys.readouterr().out
    assert "learnt: 'It is red.<|im_end|>" in out and "1 examples: 1 steps an epoch" in out


def test_a_dry_run_of_a_curriculum_checks_every_stage(folder, capsys):
    train = write(folder / "train.jsonl", [count("0.png", 1), count("1.png", 2), count("2.png", 5)])
    (folder / "stages.yaml").write_text(
        f"common: {{task: counting, dataset_name: {train}, model_name_or_path: {CHECKPOINT}, max_steps: 2}}\n"
        "stages:\n  - {name: judge, form: judge}\n  - {name: open, form: open}\n"
    )
    cli.main(["curriculum", "--config", str(folder / "stages.yaml"), "--dry_run"])
    out = capsys.readouterr().out
    assert "stage 1 of 2, judge" in out and "3 examples of task counting, form judge" in out
    assert "stage 2 of 2, open" in out and "3 examples of task counting, form open" in out


def test_switches_beside_the_settings_are_taken_off_the_line():
    assert take_switch(["--dry_run", "--task", "rec"], "dry_run") == (True, ["--task", "rec"])
    assert take_switch(["--task", "rec", "--dry-run=false"], "dry_run") == (False, ["--task", "rec"])
    assert take_switch(["--dry_run", "yes", "x"], "dry_run") == (True, ["x"])
    with pytest.raises(Stop):
        take_switch(["--dry_run=maybe"], "dry_run")


def test_the_check_needs_no_paddle():
    code = "import sys; from r1_mllm.doctor import command; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


PATHOLOGICAL = Path(__file__).parents[1] / "golden/cases/pathological"
BROKEN = (
    *("truncated.png", "truncated.jpg", "zero_bytes.jpg", "text.jpg", "bad_crc.png", "bomb_header.png"),
    *("zero_size.png", "ratio_233.png"),
)


def test_each_damaged_picture_is_listed_once_with_its_row(tmp_path, capsys):
    names = sorted(path.name for path in (PATHOLOGICAL / "images").iterdir())
    rows = [count(name, i, f"How many in {name}?") for i, name in enumerate(names)]
    train, report = write(tmp_path / "train.jsonl", rows), tmp_path / "bad.jsonl"
    argv = ["data", "check", train, "--task", "counting", "--image_root", str(PATHOLOGICAL / "images")]
    for _ in range(2):  # two runs list the same
        with pytest.raises(SystemExit):
            cli.main([*argv, "--report", str(report)])
        found = [json.loads(line) for line in report.read_text().splitlines()]
        assert sorted(line["where"] for line in found) == sorted(f"{train}:{names.index(b) + 1}" for b in BROKEN)
        assert {line["field"] for line in found} == {"image"}
    assert "BAD: 0 bad rows, 8 missing or unreadable pictures" in capsys.readouterr().out


def test_damaged_lines_are_named_once_and_the_others_are_used(capsys):
    file = str(PATHOLOGICAL / "data/broken_lines.jsonl")
    with pytest.raises(SystemExit):
        cli.main(["data", "check", file, "--task", "counting", "--image_root", str(PATHOLOGICAL / "images")])
    out = capsys.readouterr().out
    assert f"    {file}:3: not valid JSON" in out and f"{file}:3: {file}:3" not in out
    assert "gold answers: 9 of 9 score" in out


def test_one_row_alone_still_shows_its_rewards():
    config = RewardConfig(length_limit=64)
    found = selftest.run([Example("counting", "q", 3)], config, {"accuracy": rewards.accuracy})
    assert "  reward accuracy: gold 1.000 (means)" in selftest.describe(found)
