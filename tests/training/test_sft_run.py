# SPDX-License-Identifier: Apache-2.0
"""Supervised runs on a tiny real model: what is learnt, kept, frozen, resumed and exported."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from r1_mllm import cli
from r1_mllm.config import (
    LoraConfig,
    ModelConfig,
    OptimizerConfig,
    SftConfig,
    TrainingConfig,
)
from r1_mllm.config.sft import SftDataConfig, SftEvaluationConfig
from r1_mllm.data.pack import pack, supervised_pair
from r1_mllm.data.synthetic import write_splits
from r1_mllm.models import adapter_files, lora
from r1_mllm.models.weights import load_pretrained
from r1_mllm.processing.conversation import lesson
from r1_mllm.processing.prompt import Processor
from r1_mllm.quickstart import supervised
from r1_mllm.runtime import DATA, NONFINITE, USAGE, Stop
from r1_mllm.tasks import conversation
from r1_mllm.training import durable, sft
from r1_mllm.training.optimizer import AdamW
from r1_mllm.training.session import open_session

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "tests" / "golden" / "cases" / "e2e" / "checkpoint"
IMAGES = CHECKPOINT.parent / "images"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Training and held-out conversations, and questions with gold answers."""
    folder = tmp_path_factory.mktemp("conversations")
    names = sorted(path.name for path in IMAGES.iterdir())
    for name in names:
        shutil.copy(IMAGES / name, folder / name)
    rows = []
    for i in range(12):
        turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": f"It is {i % 3}."}]
        if i % 3 == 0:
            turns += [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "yes"}]
        rows.append({"messages": turns, "images": [names[i % 3]]})
    for name, part in (("train.jsonl", rows[:9]), ("held.jsonl", rows[9:])):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in part))
    write_splits("counting", 4, folder / "scenes", num_test=3, seed=3)
    return folder


@pytest.fixture
def configure(tmp_path, files):
    """Make settings; keyword arguments are put where they belong."""
    base = {
        "model": (ModelConfig, {"model_name_or_path": str(CHECKPOINT)}),
        "data": (
            SftDataConfig,
            {"dataset_name": str(files / "train.jsonl"), "eval_dataset_name": str(files / "held.jsonl")},
        ),
        "lora": (LoraConfig, {}),
        "optimizer": (OptimizerConfig, {"learning_rate": 3e-3}),
        "training": (TrainingConfig, {"output_dir": str(tmp_path / "run"), "max_steps": 4, "report_to": ("none",)}),
        "evaluation": (SftEvaluationConfig, {"max_completion_length": 5}),
    }

    def make(**changes):
        parts = {}
        for name, (kind, settings) in base.items():
            mine = {key: changes.pop(key) for key in list(changes) if key in kind.__dataclass_fields__}
            parts[name] = kind(**settings | mine)
        assert not changes
        return SftConfig(**parts)

    return make


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def changed(old, new):
    """Names of tensors whose bits differ between two model folders."""
    old, new = load_file(Path(old) / "model.safetensors"), load_file(Path(new) / "model.safetensors")
    return {name for name in old if (old[name] != new[name]).any()}


def test_a_run_learns_and_leaves_what_people_look_for(configure, tmp_path, files):
    scenes = files / "scenes" / "test.json"
    sft.train(configure(max_steps=8, accuracy_dataset_name=str(scenes), task="counting", eval_steps=4))
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    held = [line["eval/loss"] for line in lines if "eval/loss" in line]
    assert len(held) == 3 and held[-1] < 0.7 * held[0]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 9))
    for name in ("loss", "grad_norm", "learning_rate", "epoch", "num_tokens", "answer_tokens", "step_time"):
        assert np.isfinite([line[name] for line in lines if "loss" in line]).all()
    assert json.loads((tmp_path / "run" / "eval_after.json").read_text())["num"] == 3
    for folder in ("", "final", "checkpoint-8"):
        load_pretrained(tmp_path / "run" / folder)
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    sft.train(configure(max_steps=8, accuracy_dataset_name=str(scenes), task="counting", eval_steps=4))
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_the_first_loss_is_the_mean_over_all_answer_tokens(configure, tmp_path):
    config = configure(max_steps=1, per_device_train_batch_size=9, learning_rate=0.0)
    sft.train(config)
    first = next(line for line in read_lines(tmp_path / "run" / "metrics.jsonl") if "loss" in line)
    run = open_session(
        replace(config, training=replace(config.training, output_dir=str(tmp_path / "other"))), sft.load_lessons
    )
    run.close()
    logp, tokens = 0.0, 0
    for example in run.examples:
        (batch,) = pack([sft.encode(run, example)], 4096, run.visual_ids)
        logp += float(run.model.token_logp(batch).numpy()[batch.mask].sum())
        tokens += int(batch.mask.sum())
    assert tokens == first["answer_tokens"] and first["loss"] == pytest.approx(-logp / tokens, rel=1e-5)


LORA = {"use_peft": True, "lora_r": 3, "lora_alpha": 6, "lora_dropout": 0.2}


@pytest.mark.parametrize("changes", [{}, pytest.param(LORA, marks=pytest.mark.slow)])
def test_a_resumed_run_equals_one_that_never_stopped(configure, tmp_path, changes):
    settings = {"save_steps": 2, "save_total_limit": None, "logging_steps": 2, "eval_num": 1, **changes}
    sft.train(configure(**settings))
    whole, resumed = tmp_path / "run", tmp_path / "again"
    shutil.copytree(whole, resumed, ignore=shutil.ignore_patterns("checkpoint-4", "final"))
    sft.train(configure(output_dir=str(resumed), **settings))
    weights = "adapter_model.safetensors" if changes else "model.safetensors"
    for name in (weights, "state/optimizer.safetensors", "state/trainer.json"):
        ours, theirs = ((folder / "checkpoint-4" / name).read_bytes() for folder in (resumed, whole))
        assert ours == theirs, name


def test_adapters_are_all_that_a_run_trains_saves_and_keeps_moments_of(configure, tmp_path):
    sft.train(configure(**LORA))
    checkpoint = tmp_path / "run" / "checkpoint-4"
    assert not (checkpoint / "model.safetensors").exists()
    manifest = durable.read_manifest(checkpoint)
    assert manifest["base_model"] == str(CHECKPOINT) == adapter_files.read_spec(checkpoint).base
    state = load_file(checkpoint / "state" / "optimizer.safetensors")
    assert len(state) == 1 + 2 * 2 * 7 * 2 and all(".adapter." in name or name == "step" for name in state)
    run = open_session(configure(output_dir=str(tmp_path / "other"), adapter=str(checkpoint), **LORA), sft.load_lessons)
    run.close()
    trained = {name: p.numpy() for name, p in run.model.named_parameters()}
    base = load_pretrained(CHECKPOINT)
    assert all((trained[name] == p.numpy()).all() for name, p in base.named_parameters())
    grown = [p.numpy() for name, p in run.model.named_parameters() if name.endswith(".b")]
    assert all(np.abs(b).max() > 0 for b in grown)
    batch = pack([sft.encode(run, run.examples[0])], 4096, run.visual_ids)[0]
    merged = adapter_files.load_any(tmp_path / "run")  # the run's own folder is an adapter, too
    np.testing.assert_allclose(merged.token_logp(batch).numpy(), run.model.token_logp(batch).numpy(), atol=2e-5)


def test_dropout_reaches_training_steps_and_not_the_evaluation(files):
    processor = Processor.from_pretrained(CHECKPOINT)
    rows = [conversation.example(row, "x:1", str(files)) for row in read_lines(files / "train.jsonl")[:2]]
    pairs = [supervised_pair(*lesson(processor, row.answer, row.images)) for row in rows]
    trained, held = [], []
    for share, seed in ((0.0, 1), (0.5, 1), (0.5, 1), (0.5, 2)):
        model = load_pretrained(CHECKPOINT)
        lora.attach(model, lora.AdapterSpec(2, 4.0, ("q_proj", "down_proj"), ".*visual.*"), share)
        for _, adapter in lora.adapters(model):
            adapter.b.set_value(np.random.default_rng(3).normal(0, 0.2, adapter.b.shape).astype(np.float32))
        optimizer = AdamW(model.named_parameters(), OptimizerConfig())
        trained.append(sft.supervised_update(model, pairs, optimizer, seed=seed).loss)
        held.append(sft.held_out_loss(model, pairs)[0])
        optimizer.num_steps = 1
        trained.append(sft.supervised_update(model, pairs, optimizer, seed=seed).loss)
    assert trained[2:4] == trained[4:6] and len(set(trained)) == 5 and len(set(held)) == 1  # another mask every step


def test_an_adapter_is_exported_evaluated_and_merged_into_a_full_run(configure, tmp_path, capsys):
    sft.train(configure(max_steps=2, **LORA))
    adapter, out = tmp_path / "run" / "final", tmp_path / "whole"
    cli.main(["export", "--adapter", str(adapter), "--out", str(out)])
    assert capsys.readouterr().out.strip() == str(out)
    touched = changed(CHECKPOINT, out)
    assert len(touched) == 2 * 7 and all("_proj.weight" in name and "visual" not in name for name in touched)
    Processor.from_pretrained(out), Processor.from_pretrained(adapter)
    with pytest.raises(Stop, match="holds weights already"):
        cli._export(["--adapter", str(adapter), "--out", str(out), "--model", str(CHECKPOINT)])
    sft.train(configure(max_steps=1, adapter=str(adapter), learning_rate=0.0, output_dir=str(tmp_path / "full")))
    assert not changed(out, tmp_path / "full")
    with pytest.raises(Stop, match=rf"is an adapter.*--model_name_or_path {CHECKPOINT} --adapter"):
        sft.train(configure(model_name_or_path=str(adapter), output_dir=str(tmp_path / "wrong")))


@pytest.mark.parametrize(
    ("flag", "kept", "recompute"),
    [
        ("freeze_vision", "visual.", True),
        ("freeze_language", "model.", False),
        pytest.param("freeze_language", "model.", True, marks=pytest.mark.slow),
    ],
)
def test_what_is_frozen_keeps_its_bits_and_costs_no_state(configure, tmp_path, flag, kept, recompute):
    sft.train(configure(**{flag: True}, recompute=recompute, eval_num=1, weight_decay=0.1, max_steps=2))
    names = changed(CHECKPOINT, tmp_path / "run")
    assert names and not any(name.startswith(kept) for name in names)
    state = load_file(tmp_path / "run" / "checkpoint-2" / "state" / "optimizer.safetensors")
    prefix = {"visual.": "visual.", "model.": "text."}[kept]
    assert not any(name.startswith(prefix) for name in state)


def test_a_frozen_tower_has_no_gradients_and_keeps_no_activations(configure, tmp_path):
    config = configure(freeze_vision=True)
    run = open_session(config, sft.load_lessons)
    run.close()
    batch = pack([sft.encode(run, run.examples[0])], 4096, run.visual_ids)[0]
    assert run.model.embed_images(batch.pixels, batch.grids).stop_gradient
    run.model.token_logp(batch).sum().backward()
    assert all(p.grad is None for p in run.model.visual.parameters())
    assert all(p.grad is not None for p in run.model.text.parameters())


def test_settings_and_rows_that_cannot_work_are_named(configure, tmp_path, files, caplog):
    with pytest.raises(Stop, match="leave nothing to train") as stop:
        sft.train(configure(freeze_vision=True, freeze_language=True))
    assert stop.value.code == USAGE
    with pytest.raises(Stop, match="choose one"):
        sft.train(configure(freeze_language=True, output_dir=str(tmp_path / "b"), **LORA))
    with pytest.raises(Stop, match="chooses modules of the vision tower"):
        sft.train(configure(freeze_vision=True, lora_exclude_modules=None, output_dir=str(tmp_path / "c"), **LORA))
    bad = tmp_path / "bad.jsonl"
    bad.write_text((files / "train.jsonl").read_text() + '{"messages": [{"role": "user", "content": "a"}]}\n')
    with pytest.raises(Stop, match=r"bad\.jsonl:10: turns user") as stop:
        sft.train(configure(dataset_name=str(bad), image_root=str(files), output_dir=str(tmp_path / "d")))
    assert stop.value.code == DATA
    with pytest.raises(Stop, match="above max_length 20"):
        sft.train(configure(max_length=20, output_dir=str(tmp_path / "e")))
    with pytest.raises(ValueError, match=r"num_iterations 2.*mini_batch_size 1.*form judge"):
        configure(num_iterations=2, mini_batch_size=1, form=("judge",))
    few = tmp_path / "few.jsonl"
    few.write_text((files / "train.jsonl").read_text().splitlines()[1] + "\n")
    few_rows = {"dataset_name": str(few), "image_root": str(files), "per_device_train_batch_size": 1}
    sft.train(configure(max_steps=11, eval_num=1, output_dir=str(tmp_path / "f"), **few_rows))
    assert "11 steps are 11.0 epochs over 1 rows" in caplog.text


def test_a_poisoned_row_is_named(configure, tmp_path, monkeypatch):
    clean = sft.encode

    def poisoned(run, example):
        group = clean(run, example)
        if example is run.examples[4]:
            group.prompt.pixels = np.full_like(group.prompt.pixels, np.nan)
        return group

    monkeypatch.setattr(sft, "encode", poisoned)
    with pytest.raises(Stop, match=r"train\.jsonl:5 ") as stop:
        sft.train(configure(max_steps=9, per_device_train_batch_size=3))
    assert stop.value.code == NONFINITE and "train.jsonl:4" not in str(stop.value)


def test_the_command_runs_on_a_messages_file(files, tmp_path, capsys):
    words = ["--model_name_or_path", str(CHECKPOINT), "--dataset_name", str(files / "train.jsonl"), "--max_steps", "1"]
    words += ["--output_dir", str(tmp_path / "out"), "--use_peft", "--lora_target_modules", "q_proj", "v_proj"]
    cli.main(["sft", *words, "--lora_task_type", "CAUSAL_LM", "--freeze_vision_modules", "--report_to", "none"])
    assert "lora_target_modules: ['q_proj', 'v_proj']" in capsys.readouterr().out
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "v_proj"] and config["r"] == 16


@pytest.mark.slow
def test_the_embedded_default_runs_in_miniature(tmp_path):
    folder = supervised.run(supervised.SupervisedConfig(output_dir=str(tmp_path / "out"), smoke=True))
    first = json.loads((folder / "data" / "train.messages.jsonl").read_text().splitlines()[0])
    assert first["messages"][0]["content"].startswith("<image>") and "<answer>" in first["messages"][1]["content"]
    lines = read_lines(folder / "metrics.jsonl")
    assert lines[-2]["eval/loss"] < lines[0]["eval/loss"] and (folder / "eval_after.json").is_file()


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(files, tmp_path):
    words = ["-m", "r1_mllm", "sft", "--model_name_or_path", CHECKPOINT, "--dataset_name", files / "train.jsonl"]
    words += ["--eval_dataset_name", files / "held.jsonl", "--max_steps", "3", "--learning_rate", "1e-2"]
    words += ["--use_peft", "--lora_dropout", "0", "--report_to", "none"]
    words += ["--adam_epsilon", "1e-4"]  # else a gradient of nearly 0, and its rounding, makes a whole step
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", tmp_path / "log", sys.executable]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE_")}
    lines = []
    for folder, before, batch in ((tmp_path / "one", [], 2), (tmp_path / "two", launch, 1)):
        command = [sys.executable, *before, *words, "--per_device_train_batch_size", batch, "--output_dir", folder]
        done = subprocess.run(
            [str(word) for word in command], env=environment, capture_output=True, text=True, timeout=300, cwd=ROOT
        )
        assert done.returncode == 0, done.stdout + done.stderr
        lines.append(read_lines(folder / "metrics.jsonl"))
    for one, two in zip(*lines, strict=True):
        for name in ("loss", "eval/loss", "grad_norm", "num_tokens", "epoch"):
            assert one.get(name, 0.0) == pytest.approx(two.get(name, 0.0), rel=1e-4), name
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=2e-4, err_msg=name)
