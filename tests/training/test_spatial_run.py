# SPDX-License-Identifier: Apache-2.0
"""SAT in miniature: an archive is prepared, a base model trains in the R1-Zero form, conversations are learnt."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from r1_mllm.config import (
    DataConfig,
    GrpoConfig,
    ModelConfig,
    ObjectiveConfig,
    RewardConfig,
    RolloutConfig,
    TrainingConfig,
)
from r1_mllm.config.flags import parse
from r1_mllm.config.sft import SftConfig
from r1_mllm.data.lessons import MessagesConfig, write_messages
from r1_mllm.data.prepare import prepare
from r1_mllm.data.synthetic import write_splits
from r1_mllm.processing.template import named_template
from r1_mllm.training import grpo, sft

CHECKPOINT = Path(__file__).resolve().parents[1] / "golden/cases/e2e/checkpoint"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """data/ as `prepare_sat.sh --from SAT.zip` leaves it, from an archive of 6 rendered rows."""
    place = tmp_path_factory.mktemp("sat")
    made, _ = write_splits("spatial", 6, place / "made", 2, container="parquet", max_objects=3)
    with zipfile.ZipFile(place / "SAT.zip", "w") as archive:
        archive.write(made / "data" / "train-00000-of-00001.parquet", "SAT/SAT_train.parquet")
    assert prepare("sat", place / "SAT.zip", place / "data") == [place / "data" / "SAT" / "SAT_train.parquet"]
    assert [path.name for path in (place / "data").iterdir()] == ["SAT"]
    return place / "data"


@pytest.fixture
def base(tmp_path):
    """A tiny checkpoint without a chat template."""
    folder = tmp_path / "base"
    shutil.copytree(CHECKPOINT, folder)
    (folder / "chat_template.json").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": "<|endoftext|>"}))
    return folder


def test_a_base_model_trains_on_sat_in_the_r1_zero_form(prepared, base, tmp_path):
    out = tmp_path / "run"
    config = GrpoConfig(
        model=ModelConfig(model_name_or_path=str(base)),
        data=DataConfig(task="sat", dataset_name=str(prepared / "SAT" / "SAT_train.parquet"), chat_template="r1_zero"),
        rollout=RolloutConfig(num_generations=3, max_completion_length=5),
        objective=ObjectiveConfig(beta=0.0),
        reward=RewardConfig(reward_funcs=("accuracy", "format", "token_bonus"), reward_weights=(1.0, 1.0, 0.5)),
        training=TrainingConfig(output_dir=str(out), max_steps=2, report_to=("none",)),
    )
    grpo.train(config)
    rows = [json.loads(line) for line in (out / "completions.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 2 * 3
    for row in rows:
        assert row["prompt"].endswith("step by step.\n<think>") and row["completion"].startswith("<think>")
        assert set(row["rewards"]) == {"accuracy", "format", "token_bonus"}
        assert row["ground_truth"] in row["question"]
    for folder in (out, out / "final", out / "checkpoint-2"):  # who evaluates them asks in the same form
        assert (folder / "chat_template.jinja").read_text() == named_template("r1_zero")


def test_sat_conversations_are_learnt_by_a_base_model(prepared, base, tmp_path):
    lessons = prepared / "SAT" / "SAT_train_4.jsonl"
    assert write_messages(MessagesConfig(str(prepared / "SAT" / "SAT_train.parquet"), str(lessons), "sat", 4)) == 4
    words = ["--model_name_or_path", str(base), "--dataset_name", str(lessons), "--output_dir", str(tmp_path / "sft")]
    words += ["--max_length", "1024", "--max_steps", "2", "--report_to", "none", "--learning_rate", "1e-3"]
    sft.train(parse(SftConfig, words, "sft"))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "sft" / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2 and losses[1] < losses[0]
