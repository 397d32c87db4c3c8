# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from r1_mllm.config import GrpoConfig, ObjectiveConfig, OptimizerConfig, TrainingConfig
from r1_mllm.runtime import DISK, MODEL, OUTPUT, USAGE, Stop
from r1_mllm.training import durable
from r1_mllm.training.checkpoint import checkpoints, latest_valid, open_run


def config(folder, learning_rate=1e-6, **training):
    return GrpoConfig(
        optimizer=OptimizerConfig(learning_rate=learning_rate),
        training=TrainingConfig(output_dir=str(folder / "run"), **training),
    )


def weights(value):
    def write(folder):
        save_file({"w": np.full([3, 5], value, np.float32)}, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")

    return write


def save(run, step, **state):
    run.save(step, weights(step), {"w/moment1": np.full([3, 5], step / 8, np.float32)}, {"position": step * 7, **state})


def saved_run(folder, steps, **training):
    run = open_run(config(folder, **training))
    for step in steps:
        save(run, step)
    run.close()
    return run.output_dir


def damage_file(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_another_number_of_processes_is_said_once(tmp_path, capsys):
    folder = saved_run(tmp_path, [10]) / "checkpoint-10"
    trainer = folder / "state" / "trainer.json"
    trainer.write_text(trainer.read_text().replace('"world": 1', '"world": 4'))
    durable.seal(folder, 10)
    open_run(config(tmp_path)).close()
    assert capsys.readouterr().err.count("saved by 4 processes, going on with 1") == 1
    save(again := open_run(config(tmp_path)), 20)
    again.close()
    capsys.readouterr()
    open_run(config(tmp_path)).close()
    assert "processes" not in capsys.readouterr().err


def test_the_same_command_continues_where_the_last_checkpoint_ended(tmp_path):
    saved_run(tmp_path, [10, 20])
    run = open_run(config(tmp_path))
    point = run.resume_point
    assert (point.step, point.trainer) == (20, {"position": 140})
    assert (point.optimizer_state(["w/moment1"])["w/moment1"] == np.float32(2.5)).all()
    assert (load_file(point.path / "model.safetensors")["w"] == 20).all()
    run.close()


def test_a_fresh_folder_has_nothing_to_resume_and_keeps_the_settings(tmp_path):
    run = open_run(config(tmp_path), facts={"num_examples": 12})
    assert run.resume_point is None
    record = json.loads((run.output_dir / "run.json").read_text())
    assert record["config"]["learning_rate"] == 1e-6 and record["facts"] == {"num_examples": 12}
    assert "learning_rate: 1.0e-06" in (run.output_dir / "args.yaml").read_text()
    run.close()


def test_other_settings_are_refused_by_name_but_bookkeeping_may_change(tmp_path):
    saved_run(tmp_path, [1])
    with pytest.raises(Stop, match=r"learning_rate: 1e-06 -> 0\.0003") as refusal:
        open_run(config(tmp_path, learning_rate=3e-4))
    assert refusal.value.code == USAGE and "save_steps" not in str(refusal.value)
    run = open_run(config(tmp_path, save_steps=7, report_to=("none",)))
    assert run.resume_point.step == 1
    run.close()


def test_another_data_set_under_the_same_name_is_refused(tmp_path):
    open_run(config(tmp_path), facts={"rows_sha256": "aa"}).close()
    with pytest.raises(Stop, match="rows_sha256: 'aa' -> 'bb'"):
        open_run(config(tmp_path), facts={"rows_sha256": "bb"})


def test_a_setting_that_an_older_run_did_not_know_had_its_default(tmp_path):
    file = saved_run(tmp_path, [2]) / "run.json"
    record = json.loads(file.read_text())
    del record["config"]["weight_decay"], record["config"]["beta"]
    file.write_text(json.dumps(record))
    run = open_run(config(tmp_path))
    assert run.resume_point.step == 2
    run.close()
    file.write_text(json.dumps(record))
    other = replace(config(tmp_path), objective=ObjectiveConfig(beta=0.5))
    with pytest.raises(Stop, match=r"beta: 0\.0\d* -> 0\.5"):
        open_run(other)


def test_a_named_checkpoint_is_taken_with_other_settings_and_says_which(tmp_path, capsys):
    folder = saved_run(tmp_path, [1, 2], save_total_limit=None)
    run = open_run(config(tmp_path, learning_rate=3e-4, resume_from_checkpoint=str(folder / "checkpoint-1")))
    assert run.resume_point.step == 1 and "learning_rate" in capsys.readouterr().err
    run.close()


def test_overwriting_moves_the_old_run_aside_whole(tmp_path):
    saved_run(tmp_path, [1, 2])
    run = open_run(config(tmp_path, learning_rate=9.0, overwrite_output_dir=True))
    assert run.resume_point is None and checkpoints(run.output_dir) == []
    run.close()
    (aside,) = tmp_path.glob("run.bak-*")
    assert durable.damage(aside / "checkpoint-2") is None and (aside / "run.json").is_file()


def test_never_does_not_mix_into_a_folder_that_holds_a_run(tmp_path):
    saved_run(tmp_path, [1])
    with pytest.raises(Stop, match="overwrite_output_dir"):
        open_run(config(tmp_path, resume_from_checkpoint="never"))


@pytest.mark.parametrize("name", ["model.safetensors", "state/optimizer.safetensors", "MANIFEST.json", "config.json"])
def test_any_damaged_file_sends_auto_to_the_checkpoint_before_and_is_named(tmp_path, capsys, name):
    folder = saved_run(tmp_path, [1, 2])
    damage_file(folder / "checkpoint-2" / name)
    run = open_run(config(tmp_path))
    assert run.resume_point.step == 1 and name in capsys.readouterr().err
    run.close()


def test_removed_truncated_and_added_files_are_damage_too(tmp_path):
    folder = saved_run(tmp_path, [1, 2, 3], save_total_limit=None)
    (folder / "checkpoint-1" / "config.json").unlink()
    (folder / "checkpoint-2" / "extra.json").write_text("{}")
    with (folder / "checkpoint-3" / "model.safetensors").open("ab") as file:
        file.truncate(20)
    with pytest.raises(Stop, match="every checkpoint") as refusal:
        latest_valid(folder)
    assert refusal.value.code == MODEL


def test_naming_a_damaged_checkpoint_is_an_error(tmp_path):
    folder = saved_run(tmp_path, [1, 2])
    damage_file(folder / "checkpoint-2" / "model.safetensors")
    with pytest.raises(Stop, match=r"model\.safetensors was changed"):
        open_run(config(tmp_path, resume_from_checkpoint=str(folder / "checkpoint-2")))


def test_only_the_newest_valid_checkpoints_are_kept(tmp_path):
    folder = saved_run(tmp_path, [1, 2], save_total_limit=2)
    (folder / "checkpoint-2" / "config.json").unlink()
    run = open_run(config(tmp_path, save_total_limit=2))
    save(run, 3)
    assert [step for step, _ in checkpoints(folder)] == [3, 2, 1]  # 2 is damaged and does not count
    save(run, 4)
    assert [step for step, _ in checkpoints(folder)] == [4, 3, 2]
    run.close()


def test_logs_are_cut_back_to_the_resumed_step(tmp_path):
    folder = saved_run(tmp_path, [2])
    rows = "".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 2, 3))
    (folder / "metrics.jsonl").write_text(rows + '{"step": 4, "rew')
    open_run(config(tmp_path)).close()
    assert (folder / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n{"step": 2}\n'


def test_a_run_killed_before_its_first_checkpoint_starts_again_with_empty_logs(tmp_path):
    run = open_run(config(tmp_path))
    (run.output_dir / "metrics.jsonl").write_text('{"step": 1}\n')
    run.close()
    run = open_run(config(tmp_path))
    assert run.resume_point is None and (run.output_dir / "metrics.jsonl").read_text() == ""
    run.close()


def test_two_runs_cannot_share_a_folder(tmp_path):
    first = open_run(config(tmp_path))
    with pytest.raises(Stop, match=f"process {os.getpid()} on ") as refusal:
        open_run(config(tmp_path))
    assert refusal.value.code == OUTPUT
    first.close()
    open_run(config(tmp_path)).close()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(Stop, match="cannot be written") as refusal:
        open_run(config(tmp_path))
    assert refusal.value.code == OUTPUT


def test_a_failed_save_leaves_the_older_checkpoints_and_no_litter(tmp_path):
    folder = saved_run(tmp_path, [1])
    run = open_run(config(tmp_path))

    def full(folder):
        weights(2)(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(Stop, match="No space left") as refusal:
        run.save(2, full, {}, {})
    run.close()
    assert refusal.value.code == DISK
    assert latest_valid(folder).name == "checkpoint-1" and not list(folder.glob(".tmp-*"))


def test_optimizer_state_of_another_model_is_refused_by_name(tmp_path):
    saved_run(tmp_path, [1])
    run = open_run(config(tmp_path))
    with pytest.raises(Stop, match=r"missing \['v/moment1'\], surplus \['w/moment1'\]"):
        run.resume_point.optimizer_state(["v/moment1"])
    run.close()


def test_every_random_generator_goes_on_as_if_nothing_had_happened(tmp_path):
    def draw():
        return random.random(), float(np.random.rand()), paddle.randn([3]).tolist()

    run = open_run(config(tmp_path))
    draw()
    save(run, 1)
    expected = draw()
    run.close()
    run = open_run(config(tmp_path))
    run.resume_point.restore_rng()
    assert draw() == expected
    run.close()


def test_the_tokenizer_travels_with_the_weights_and_export_has_no_training_state(tmp_path):
    source = tmp_path / "model"
    source.mkdir()
    (source / "tokenizer.json").write_text('{"a": 1}')
    (source / "config.json").write_text("the old one")
    run = open_run(config(tmp_path))
    run.save(1, weights(1), {}, {}, source=source)
    final = run.export(1, weights(1), source=source)
    run.close()
    for folder in (run.output_dir / "checkpoint-1", final):
        assert (folder / "tokenizer.json").read_text() == '{"a": 1}' and (folder / "config.json").read_text() == "{}"
    assert not (final / "state").exists() and durable.damage(final) is None


def test_optimizer_tensors_of_paddle_are_saved_bit_for_bit(tmp_path):
    value = paddle.randn([4, 3])
    run = open_run(config(tmp_path))
    run.save(1, weights(1), {"m": value}, {})
    run.close()
    run = open_run(dataclasses.replace(config(tmp_path)))
    assert (run.resume_point.optimizer_state()["m"] == value.numpy()).all()
    run.close()


LOOP = """
import sys, numpy as np
from pathlib import Path
from r1_mllm import runtime; runtime.prepare()
from safetensors.numpy import save_file
from r1_mllm.config import GrpoConfig, TrainingConfig
from r1_mllm.training.checkpoint import open_run
run = open_run(GrpoConfig(training=TrainingConfig(output_dir=sys.argv[1])))
step = run.resume_point.step if run.resume_point else 0
print("start", step, flush=True)
while True:
    step += 1
    value = np.full([300, 500], step, np.float32)
    run.save(step, lambda folder: save_file({"w": value}, folder / "model.safetensors"), {"m": value}, {"at": step})
    print("saved", step, flush=True)
"""


@pytest.mark.slow
def test_kills_at_random_moments_never_lose_a_saved_checkpoint(tmp_path):
    rng = random.Random(5)
    expected = 0
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", LOOP, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline().split() == ["start", str(expected)] or expected
        time.sleep(rng.uniform(0.05, 0.6))
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0].split("\n")
        told = [int(line.split()[1]) for line in rest if line.startswith("saved ") and line.split()[1:]]
        newest = int(latest_valid(tmp_path / "run").name.split("-")[1]) if checkpoints(tmp_path / "run") else 0
        assert newest >= max(told, default=expected)
        expected = newest
    saved = latest_valid(Path(tmp_path / "run"))
    assert (load_file(saved / "model.safetensors")["w"] == expected).all() and expected > 0
