# SPDX-License-Identifier: Apache-2.0
"""Rows that go bad after the start: dropped, counted, listed, never replaced; two processes do as one does."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from r1_mllm.config import GrpoConfig, SftConfig
from r1_mllm.config.flags import parse
from r1_mllm.data.stream import permutation
from r1_mllm.runtime import DATA, Stop
from r1_mllm.training import grpo, sft

ROWS, STEPS = 8, 6


def write_rows(folder, conversations=False):
    """Rows with an id and a picture each."""
    rows = []
    for i in range(ROWS):
        Image.fromarray(np.full((28, 28 + 28 * (i % 3), 3), 9 * i, np.uint8)).save(folder / f"{i}.png")
        row = {"id": f"row-{i}", "problem": f"How many, {i}?", "solution": i, "images": [f"{i}.png"]}
        if conversations:
            told = [("user", f"<image>How many, {i}?"), ("assistant", " ".join(["one"] * (1 + i)))]
            row = row | {"messages": [{"role": role, "content": text} for role, text in told]}
        rows.append(row)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words(request, folder, out, *more):
    checkpoint = request.config.rootpath / "tests/golden/cases/e2e/checkpoint"
    return [
        *("--model_name_or_path", str(checkpoint), "--dataset_name", str(folder / "rows.jsonl")),
        *("--output_dir", str(out), "--max_steps", str(STEPS), "--save_steps", "2", "--save_total_limit", "9"),
        *("--data_policy", "quarantine", "--max_bad", "2", "--report_to", "none", "--learning_rate", "1e-3", *more),
    ]


def grpo_words(request, folder, out, *more):
    """The reward deletes the picture of the row in GONE once it has scored the first group."""
    reward = folder / "reward.py"
    gone = [folder / f"{number}.png" for number in order()[4:5]]
    reward.write_text(
        f"import os\ndef length(group):\n    for path in {[str(path) for path in gone]}:\n"
        "        os.path.exists(path) and os.unlink(path)\n"
        "    return [len(one.text) for one in group.completions]\n"
    )
    given = ("--task", "counting", "--num_generations", "2", "--max_completion_length", "4", "--beta", "0")
    given += ("--reward_isolation", "none")
    return words(request, folder, out, *given, "--reward_funcs", f"{reward}:length", *more)


def order():
    """The order in which the rows come, twice."""
    return [number for epoch in range(2) for number in permutation(ROWS, 42, epoch).tolist()]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def trained_on(folder):
    """Step -> ids of the rows it sampled."""
    found = {}
    for row in lines(folder / "completions.jsonl"):
        found.setdefault(row["step"], []).append(row["id"])
    return {step: list(dict.fromkeys(ids)) for step, ids in found.items()}


def damage(path):
    """Change a pixel behind the header's back: only decoding finds it."""
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 1
    path.write_bytes(content)


def test_a_picture_deleted_after_the_start_costs_its_row_and_nothing_else(request, tmp_path):
    write_rows(tmp_path)
    out = tmp_path / "run"
    grpo.train(parse(GrpoConfig, grpo_words(request, tmp_path, out), "x"))
    pairs = [order()[at : at + 2] for at in range(0, 2 * STEPS, 2)]
    gone = order()[4]
    expected = {step: [f"row-{number}" for number in pair if number != gone] for step, pair in enumerate(pairs, 1)}
    assert trained_on(out) == expected and expected[3] == [f"row-{order()[5]}"]
    listed = lines(out / "dropped.jsonl")
    assert [(row["step"], row["id"]) for row in listed] == [
        (step, f"row-{gone}") for step, pair in enumerate(pairs, 1) if gone in pair
    ]
    assert f"{gone}.png" in listed[0]["message"] and listed[0]["where"] == f"{tmp_path / 'rows.jsonl'}:{gone + 1}"
    counts = [line["dropped_rows"] for line in lines(out / "metrics.jsonl") if "loss" in line]
    assert counts == [sum(gone in pair for pair in pairs[:step]) for step in range(1, STEPS + 1)]
    again = tmp_path / "again"  # as if killed after checkpoint-4, with the picture still gone
    shutil.copytree(out, again, ignore=shutil.ignore_patterns("checkpoint-6", "final", ".lock"))
    grpo.train(parse(GrpoConfig, grpo_words(request, tmp_path, again), "x"))
    for name in ("model.safetensors", "state/optimizer.safetensors", "state/trainer.json"):
        assert (again / "checkpoint-6" / name).read_bytes() == (out / "checkpoint-6" / name).read_bytes()
    assert trained_on(again) == expected and lines(again / "dropped.jsonl") == listed


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--data_policy", "strict"), r"rows.jsonl:\d: .*\.png"),
        (("--max_bad", "12%"), r"step 3: 1 of 8 rows are bad, --max_bad 12% allows 0: mend them, or pass --max_bad 1"),
    ],
)
def test_strict_and_too_many_stop_with_the_code_of_bad_data(request, tmp_path, flags, told):
    write_rows(tmp_path)
    with pytest.raises(Stop, match=told) as stop:
        grpo.train(parse(GrpoConfig, grpo_words(request, tmp_path, tmp_path / "run", *flags), "x"))
    assert stop.value.code == DATA
    assert list(trained_on(tmp_path / "run")) == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["strict", "quarantine"])
def test_a_held_out_picture_that_is_gone_is_left_out_or_named(request, tmp_path, caplog, policy):
    write_rows(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "held", ignore=shutil.ignore_patterns("held"))
    damage(tmp_path / "held" / "2.png")
    more = ("--eval_dataset_name", str(tmp_path / "held" / "rows.jsonl"), "--max_steps", "1", "--data_policy", policy)
    config = parse(GrpoConfig, grpo_words(request, tmp_path, tmp_path / "run", *more), "x")
    if policy == "strict":
        with pytest.raises(Stop, match=r"held/rows\.jsonl:3: .*2\.png") as stop:
            grpo.train(config)
        assert stop.value.code == DATA
        return
    grpo.train(config)
    told = json.loads((tmp_path / "run" / "eval_after.json").read_text())
    assert [row["id"] for row in told["results"]] == [f"row-{i}" for i in range(ROWS) if i != 2] and told["num"] == 7
    assert "left out of the evaluation" in caplog.text and "2.png" in caplog.text


@pytest.mark.slow
def test_a_held_out_conversation_whose_picture_is_gone_is_left_out(request, tmp_path):
    write_rows(tmp_path, conversations=True)
    for name in ("whole", "damaged"):
        shutil.copytree(tmp_path, tmp_path / name, ignore=shutil.ignore_patterns("whole", "damaged"))
    rows = (tmp_path / "whole" / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "whole" / "rows.jsonl").write_text("".join(rows[:2] + rows[3:]))
    damage(tmp_path / "damaged" / "2.png")
    losses = []
    for name in ("whole", "damaged"):
        given = ("--eval_dataset_name", str(tmp_path / name / "rows.jsonl"), "--max_steps", "1")
        sft.train(parse(SftConfig, words(request, tmp_path, tmp_path / f"run-{name}", *given), "sft"))
        losses.append([row["eval/loss"] for row in lines(tmp_path / f"run-{name}/metrics.jsonl") if "eval/loss" in row])
    assert len(losses[0]) == 2 and losses[0] == losses[1]


def test_a_step_none_of_whose_rows_is_left_is_not_taken(request, tmp_path):
    write_rows(tmp_path)
    for number in order()[2:4]:
        damage(tmp_path / f"{number}.png")
    out = tmp_path / "run"
    more = ("--max_steps", "3", "--mini_batch_size", "1", "--max_bad", "3")
    grpo.train(parse(GrpoConfig, grpo_words(request, tmp_path, out, *more), "x"))
    rows = [f"row-{number}" for number in order()]
    assert trained_on(out) == {2: rows[:2], 3: rows[5:6]}  # a rollout is written after its last mini-batch
    assert [(row["step"], row["id"]) for row in lines(out / "dropped.jsonl")] == [(3, name) for name in rows[2:5]]


def test_dynamic_sampling_goes_on_drawing_without_the_bad_rows(request, tmp_path):
    write_rows(tmp_path)
    bad = order()[1:5]  # the reward deletes the picture of the last of them
    for number in bad[:-1]:
        damage(tmp_path / f"{number}.png")
    more = ("--dynamic_sampling", "True", "--max_num_gen_batches", "3", "--max_steps", "1", "--max_bad", "4")
    config = parse(GrpoConfig, grpo_words(request, tmp_path, tmp_path / "run", *more), "x")
    grpo.train(config)
    (ids,) = trained_on(tmp_path / "run").values()
    state = json.loads((tmp_path / "run/checkpoint-1/state/trainer.json").read_text())["trainer"]["stream"]
    drawn = order()[: state["index"]]
    assert len(drawn) >= 4 and sorted(ids) == sorted(f"row-{number}" for number in drawn if number not in bad)
    assert [row["id"] for row in lines(tmp_path / "run/dropped.jsonl")] == [f"row-{number}" for number in bad]


@pytest.mark.slow
def test_two_ranks_drop_as_one_process_does(request, tmp_path):
    """First rank 1 has nothing left of a step, then rank 0; the other one goes on."""
    write_rows(tmp_path, conversations=True)
    for number in (order()[3], order()[6]):
        damage(tmp_path / f"{number}.png")
    given = ("--max_grad_norm", "1.0", "--adam_epsilon", "1e-4", "--dataloader_num_workers", "0")
    alone = words(request, tmp_path, tmp_path / "alone", "--per_device_train_batch_size", "2", *given)
    sft.train(parse(SftConfig, alone, "sft"))
    for stage in ("none", "stage2"):
        out = tmp_path / stage
        both = words(request, tmp_path, out, "--per_device_train_batch_size", "1", "--sharding", stage, *given)
        launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", tmp_path / "log"]
        command = [sys.executable, *launch, sys.executable, "-m", "r1_mllm", "sft", *both]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE_")}
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        mine, wanted = (load_file(run / f"checkpoint-{STEPS}/model.safetensors") for run in (out, tmp_path / "alone"))
        for name in wanted:
            np.testing.assert_allclose(mine[name], wanted[name], atol=1e-5, err_msg=name)
        listed = lines(out / "dropped.jsonl")
        assert listed == lines(tmp_path / "alone" / "dropped.jsonl") and {row["step"] for row in listed} >= {2, 4}
