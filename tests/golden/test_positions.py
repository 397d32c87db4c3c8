# SPDX-License-Identifier: Apache-2.0
"""Three-axis positions of pictures and videos equal the reference's, next positions included."""

import json

import numpy as np

from r1_mllm.processing.positions import rope_positions


def _settings(folder):
    """Vision ids, merge size and positions per second of a checkpoint's config.json, in any layout."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vision = config["vision_config"]
    seconds = float(vision.get("tokens_per_second", 4)) if config["model_type"] == "qwen2_5_vl" else None
    marks = config["image_token_id"], config["video_token_id"]
    return {"vision_ids": marks, "merge_size": vision.get("spatial_merge_size", 2), "tokens_per_second": seconds}


def _runs(ids, marks):
    """(placeholder id, its number among its kind) of each picture or video, in order of appearance."""
    order, used = [], {mark: 0 for mark in marks}
    previous = None
    for token in ids:
        if token in marks and token != previous:
            order.append((token, used[token]))
            used[token] += 1
        previous = token
    return order


def test_prompts_with_pictures(models_case):
    settings = _settings(models_case)
    inputs, golden = np.load(models_case / "inputs.npz"), np.load(models_case / "golden.npz")
    first = 0
    for row in range(len(inputs["prompt_ids"])):
        prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row] == 1]
        completion = inputs["completion_ids"][row][inputs["completion_mask"][row] == 1]
        order = _runs(prompt, settings["vision_ids"])
        grids = inputs["image_grid_thw"][first : first + len(order)]
        first += len(order)
        mask = np.concatenate([inputs["prompt_mask"][row], inputs["completion_mask"][row]]) == 1
        positions, next_position = rope_positions(np.concatenate([prompt, completion]), grids, **settings)
        assert positions.tolist() == golden["position_ids"][:, row][:, mask].tolist()
        assert next_position == golden["next_pos"][row]
        assert rope_positions(prompt, grids, **settings)[1] == golden["next_pos_prompt"][row]
    assert first == len(inputs["image_grid_thw"])


def test_prompts_with_videos(video_case):
    case = json.loads((video_case / "case.json").read_text(encoding="utf-8"))
    settings = _settings(video_case / case["checkpoint"])
    inputs, golden = np.load(video_case / "inputs.npz"), np.load(video_case / "golden.npz")
    image_id, _ = settings["vision_ids"]
    used = {mark: 0 for mark in settings["vision_ids"]}
    for row in range(len(inputs["input_ids"])):
        mask = inputs["attention_mask"][row] == 1
        ids = inputs["input_ids"][row][mask]
        grids, seconds = [], []
        for token, _ in _runs(ids, settings["vision_ids"]):
            name = "image_grid_thw" if token == image_id else "video_grid_thw"
            grids.append(inputs[name][used[token]])
            timed = token != image_id and "second_per_grid_ts" in inputs
            seconds.append(inputs["second_per_grid_ts"][used[token]] if timed else 1.0)
            used[token] += 1
        positions, next_position = rope_positions(ids, np.array(grids), **settings, second_per_grid=np.array(seconds))
        assert positions.tolist() == golden["position_ids"][:, row][:, mask].tolist()
        assert next_position == golden["next_pos"][row]
