# SPDX-License-Identifier: Apache-2.0
"""Messages and picture files of a whole model folder become the reference's ids, grids and patches."""

import json

import numpy as np

from r1_mllm.processing.prompt import Processor


def test_prompts_equal_the_reference(e2e_case):
    case = json.loads((e2e_case / "case.json").read_text(encoding="utf-8"))
    golden = np.load(e2e_case / "golden.npz")
    processor = Processor.from_pretrained(e2e_case / case["checkpoint"])
    grids, first_rows = [], []
    for row, conversation in enumerate(case["conversations"]):
        images = [str(e2e_case / "images" / name) for name in conversation["images"]]
        prompt = processor.encode(conversation["messages"], images)
        mask = golden["attention_mask"][row] == 1
        assert prompt.text == conversation["text"]
        assert prompt.ids.tolist() == golden["input_ids"][row][mask].tolist()
        assert prompt.positions.shape == (3, len(prompt.ids))
        sizes = [processor.image_size(image) for image in images]
        assert processor.prompt_length(conversation["messages"], sizes) == len(prompt.ids)
        assert [view.original_wh for view in prompt.views] == sizes
        if images:
            starts = np.cumsum([0, *prompt.grids.prod(axis=1)])
            assert starts[-1] == len(prompt.pixels)
            grids.append(prompt.grids)
            first_rows.append(prompt.pixels[starts[:-1]])
    assert np.concatenate(grids).tolist() == golden["image_grid_thw"].tolist()
    assert np.abs(np.concatenate(first_rows) - golden["pixel_first_rows"]).max() <= 2 / 255 / 0.26


def test_generated_text_is_the_text_of_the_generated_ids(e2e_case):
    case = json.loads((e2e_case / "case.json").read_text(encoding="utf-8"))
    tokenizer = Processor.from_pretrained(e2e_case / case["checkpoint"]).tokenizer
    for ids, conversation in zip(np.load(e2e_case / "golden.npz")["greedy_ids"], case["conversations"], strict=True):
        assert tokenizer.decode(ids, skip_special_tokens=True) == conversation["generated_text"]


def test_the_box_space_and_stop_ids_come_from_the_folder(e2e_case):
    case = json.loads((e2e_case / "case.json").read_text(encoding="utf-8"))
    folder = e2e_case / case["checkpoint"]
    processor = Processor.from_pretrained(folder)
    assert processor.box_units == {"qwen2_vl": "per_mille", "qwen2_5_vl": "seen_px"}[case["family"]]
    config = json.loads((folder / "config.json").read_text())
    eos = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert set(np.atleast_1d(eos)) <= set(processor.tokenizer.stop_ids)
    banned = processor.tokenizer.banned_ids
    vocab_size = config.get("vocab_size") or config["text_config"]["vocab_size"]
    assert {processor.tokenizer.image_pad_id, processor.tokenizer.video_pad_id, vocab_size - 1} <= set(banned.tolist())
    assert banned.max() < vocab_size and not set(banned.tolist()) & set(processor.tokenizer.stop_ids)
