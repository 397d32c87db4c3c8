# SPDX-License-Identifier: Apache-2.0
"""From messages and picture files to text, with nothing but the model folder."""

import json

import numpy as np
import paddle

from r1_mllm.config import RolloutConfig
from r1_mllm.models.weights import load_pretrained
from r1_mllm.processing.prompt import Processor
from r1_mllm.rollout.decoder import Decoder
from r1_mllm.rollout.engine import Engine


class Unbounded:
    """The checkpoint's tokenizer without stop and banned ids: the goldens know neither."""

    stop_ids, banned_ids = (), ()

    def __init__(self, tokenizer):
        self.decode = tokenizer.decode


def test_messages_become_the_reference_text(e2e_case):
    case = json.loads((e2e_case / "case.json").read_text(encoding="utf-8"))
    golden = np.load(e2e_case / "golden.npz")
    processor = Processor.from_pretrained(e2e_case / case["checkpoint"])
    model = load_pretrained(e2e_case / case["checkpoint"])
    prompts = [
        processor.encode(talk["messages"], [str(e2e_case / "images" / name) for name in talk["images"]])
        for talk in case["conversations"]
    ]
    with paddle.no_grad():
        decoder = Decoder(model)
        _, logits = decoder.prefill(prompts, decoder.encode_images(prompts))
    np.testing.assert_allclose(logits.numpy(), golden["last_logits"], atol=case["tolerance"]["last_logits"], rtol=0)
    engine = Engine(model, Unbounded(processor.tokenizer), RolloutConfig())
    groups = engine.generate(prompts, 1, seed=0, greedy=True, max_new_tokens=golden["greedy_ids"].shape[1])
    for (completion,), want, talk in zip(groups, golden["greedy_ids"], case["conversations"], strict=True):
        assert completion.ids.tolist() == want.tolist()
        assert completion.text == talk["generated_text"]
