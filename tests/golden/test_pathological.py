# SPDX-License-Identifier: Apache-2.0
"""Damaged pictures, rows and prompts: the good ones are used, every other one is named with its reason.

Damaged checkpoints are in test_checkpoints.py, misbehaving rewards in tests/rewards/test_user_rewards.py.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from r1_mllm.config import DataConfig, RolloutConfig
from r1_mllm.data.mixture import load_examples
from r1_mllm.models.weights import load_pretrained
from r1_mllm.processing.image import image_size, open_image
from r1_mllm.processing.positions import rope_positions
from r1_mllm.processing.tokenizer import Tokenizer
from r1_mllm.records import Prompt
from r1_mllm.rollout.engine import Engine

REASONS = {
    "truncated.png": "truncated",
    "truncated.jpg": "truncated",
    "zero_bytes.jpg": "no readable picture",
    "text.jpg": "no readable picture",
    "bad_crc.png": "checksum",
    "bomb_header.png": "3600000000 pixels",
    "zero_size.png": "",
    "ratio_233.png": "aspect ratio",
}


def items(case, kind):
    found = json.loads((case / "case.json").read_text())["items"]
    return [item for item in found if (item["path"] or "").startswith(f"{kind}/")]


def test_every_picture_is_used_or_named_with_its_reason(pathological_case):
    for item in items(pathological_case, "images"):
        path = pathological_case / item["path"]
        if item["a_good_program"].startswith(("loads", "either")):
            pixels = np.asarray(open_image(path))
            assert 0 < pixels.mean() < 255, path
            continue
        with pytest.raises(ValueError, match=path.name) as caught:
            open_image(path)
        assert REASONS.get(path.name, "") in str(caught.value)
        if path.name in REASONS and path.name != "bad_crc.png":
            with pytest.raises(ValueError, match=path.name):
                image_size(path)  # what training asks of every row before the first step


def load(case, name, policy="quarantine"):
    config = DataConfig(
        dataset_name=str(case / "data" / name),
        image_root=str(case / "images"),
        task="vqa",
        data_policy=policy,
        max_bad="100%",
    )

    def whole(example):
        for picture in example.images:
            open_image(picture)

    return load_examples(config, "train", None, whole)


def test_every_row_is_used_or_named_with_its_line(pathological_case):
    for item in items(pathological_case, "data"):
        if "per_line" not in item:
            continue
        name = item["path"].partition("/")[2]
        examples, report = load(pathological_case, name)
        used = sorted(int(example.meta["where"].rpartition(":")[2]) for example in examples)
        told = sorted({int(problem.where.rpartition(":")[2]) for problem in report.problems})
        assert used == [row["line"] for row in item["per_line"] if row["verdict"] == "use"]
        assert told == [row["line"] for row in item["per_line"] if row["verdict"] == "report"]
        assert all(problem.message for problem in report.problems)
        with pytest.raises(ValueError, match=rf"{name}:{told[0]}"):
            load(pathological_case, name, "strict")


def test_marks_line_ends_and_empty_files(pathological_case):
    assert len(load(pathological_case, "bom_crlf.jsonl", "strict")[0]) == 3
    assert len(load(pathological_case, "no_newline_at_end.jsonl", "strict")[0]) == 2
    with pytest.raises(ValueError, match="no example left"):
        load(pathological_case, "empty.jsonl")


@pytest.fixture(scope="module")
def engine(request):
    folder = Path(request.config.getoption("--golden-root")) / "e2e" / "checkpoint"
    if not folder.is_dir():
        pytest.skip("no e2e checkpoint in this set")
    return Engine(load_pretrained(folder), Tokenizer.from_pretrained(folder), RolloutConfig())


def test_contradictory_prompts_are_refused_with_the_numbers(pathological_case, engine):
    arch = engine.model.arch
    marks = (arch.image_token_id, arch.video_token_id)
    for item in items(pathological_case, "prompts"):
        given = json.loads((pathological_case / item["path"]).read_text())
        ids, grids = np.array(given["input_ids"]), given["image_grid_thw"]
        if "max_prompt_length" in given:
            assert len(ids) > given["max_prompt_length"]
            continue  # dropped whole when the data is read: tests/training/test_grpo.py
        if "expected_features" in given:
            with pytest.raises(
                ValueError, match=rf"{(ids == marks[0]).sum()} placeholder.* {given['expected_features']} "
            ):
                rope_positions(ids, np.array(grids), marks)
        elif grids is not None or np.isin(ids, marks).any():
            with pytest.raises(ValueError, match=r"placeholder|multiples"):
                rope_positions(ids, None if grids is None else np.array(grids), marks)
        else:
            positions, next_position = rope_positions(ids, None, marks)
            with pytest.raises(ValueError, match=str(ids.max())):
                engine.generate([Prompt(ids, positions, next_position)], 2, seed=0)
