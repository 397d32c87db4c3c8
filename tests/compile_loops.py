# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""Compile the loops that most tests need, once, and print a digest of what they compute.

scripts/test.sh runs this before it starts several workers: on a fresh clone each would compile them for itself.
tests/models/test_loops.py compares the digests of a process that compiles and of one that finds them compiled.
"""

import hashlib
from pathlib import Path

from r1_mllm import runtime

runtime.prepare()

import numpy as np
import paddle

from r1_mllm.config import RolloutConfig
from r1_mllm.models import attention, host, loops
from r1_mllm.models.head import token_logp
from r1_mllm.models.weights import load_pretrained
from r1_mllm.processing.prompt import Processor
from r1_mllm.rollout.engine import Engine

CHECKPOINT = Path(__file__).parent / "golden" / "cases" / "e2e" / "checkpoint"


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def trainable(array: np.ndarray) -> paddle.Tensor:
    tensor = paddle.to_tensor(array)
    tensor.stop_gradient = False
    return tensor


def attended() -> list[np.ndarray]:
    layout = attention.TextLayout(np.array([90] * 40 + [60] * 20 + [90] * 30), 4, 2, 16, False, "float32")
    qkv = trainable(values(90, 128))
    out = attention.attend(qkv, layout)
    out.backward(paddle.to_tensor(values(90, 64)))
    return [out.numpy(), qkv.grad.numpy()]


def scored() -> list[np.ndarray]:
    hidden, weight = trainable(values(50, 32)), trainable(values(3000, 32))
    logp = token_logp(hidden, weight, paddle.to_tensor(np.arange(50)))
    logp.sum().backward()
    scores, mask = values(50, 77), values(50, 78)
    loops.softmax(scores)
    kept = scores.copy()
    loops.masked_softmax(scores, mask)
    return [logp.numpy(), hidden.grad.numpy(), kept, scores]


def generated() -> list[np.ndarray]:
    processor = Processor.from_pretrained(CHECKPOINT)
    asked = [[{"role": "user", "content": [{"type": "text", "text": text}]}] for text in ("How many?", "Why is it so?")]
    engine = Engine(load_pretrained(CHECKPOINT), processor.tokenizer, RolloutConfig(max_completion_length=20))
    groups = engine.generate([processor.encode(messages, []) for messages in asked], 3, seed=0)
    return [array for group in groups for row in group for array in (row.ids, row.logprobs)]


if __name__ == "__main__" and host.is_there():
    digest = hashlib.sha256(b"".join(array.tobytes() for part in (attended, scored, generated) for array in part()))
    print(digest.hexdigest())
