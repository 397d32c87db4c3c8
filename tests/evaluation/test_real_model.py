# SPDX-License-Identifier: Apache-2.0
"""The evaluation with a real (tiny) model: the recorded texts of an independent implementation come out of it."""

import json
from pathlib import Path

import pytest

from r1_mllm.config import EvalConfig
from r1_mllm.evaluation.evaluate import evaluate
from r1_mllm.records import Example

CASE = Path(__file__).resolve().parents[1] / "golden/cases/e2e"
TEMPLATES = {"geometry": {"open": {"r1": "{question}"}}}
NUM_TOKENS = 20


@pytest.fixture
def loaded():
    from r1_mllm.evaluation.load import load

    folder = CASE / "checkpoint"
    return load(folder, EvalConfig(model_path=str(folder), dtype="float32", max_new_tokens=NUM_TOKENS))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_are_those_recorded_from_the_reference(loaded, batch_size):
    recorded = json.loads((CASE / "case.json").read_text(encoding="utf-8"))["conversations"]
    asked = [conversation for conversation in recorded if len(conversation["messages"]) == 1]
    examples = []
    for conversation in asked:
        question = conversation["messages"][0]["content"][-1]["text"]
        images = tuple(str(CASE / "images" / name) for name in conversation["images"])
        examples.append(Example("geometry", question, "5", images))
    result = evaluate(
        loaded.engine,
        loaded.processor,
        examples,
        batch_size=batch_size,
        max_new_tokens=NUM_TOKENS,
        templates=TEMPLATES,
    )
    assert [row["prompt"] for row in result.rows] == [conversation["text"] for conversation in asked]
    assert [row["model_output"] for row in result.rows] == [conversation["generated_text"] for conversation in asked]
    assert result.num_correct == 0


@pytest.mark.parametrize(
    "asked, has_gpu, dtype",
    [
        ("auto", True, "bfloat16"),
        ("float16", True, "float16"),
        ("auto", False, "float32"),
        ("bfloat16", False, "float32"),
    ],
)
def test_half_precision_is_for_gpus(asked, has_gpu, dtype):
    from r1_mllm.evaluation.load import settle_dtype

    assert settle_dtype(asked, has_gpu) == dtype
