# SPDX-License-Identifier: Apache-2.0
"""Greedy ids of the golden checkpoints, through the engine: shared prefixes, ragged prompts, stopping, penalty."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from r1_mllm.config import RolloutConfig
from r1_mllm.models.weights import load_pretrained
from r1_mllm.processing.positions import rope_positions
from r1_mllm.records import Prompt
from r1_mllm.rollout.engine import Engine


@dataclass
class Vocabulary:
    """What the engine asks of a tokenizer, without text."""

    stop_ids: tuple = ()
    banned_ids: tuple = ()

    def decode(self, ids, skip_special_tokens):
        return " ".join(map(str, ids))


def prompts_of(inputs, arch):
    used, prompts = 0, []
    pixels = inputs["pixel_q"].astype(np.float32) / 48
    first_patch = 0
    for ids, mask in zip(inputs["prompt_ids"], inputs["prompt_mask"], strict=True):
        ids = ids[mask == 1]
        num_images = int((ids == arch.vision_start_token_id).sum())
        grids = inputs["image_grid_thw"][used : used + num_images]
        used += num_images
        num_patches = int(grids.prod(axis=1).sum()) if num_images else 0
        place, next_position = rope_positions(
            ids,
            grids,
            (arch.image_token_id, arch.video_token_id),
            arch.vision.merge_size,
            arch.vision.tokens_per_second,
        )
        patches = pixels[first_patch : first_patch + num_patches] if num_images else None
        prompts.append(Prompt(ids, place, next_position, patches, grids if num_images else None))
        first_patch += num_patches
    return prompts


@pytest.fixture
def setting(models_case):
    case = json.loads((models_case / "case.json").read_text())
    model = load_pretrained(models_case)
    inputs, golden = np.load(models_case / "inputs.npz"), np.load(models_case / "golden.npz")
    return case, model, prompts_of(inputs, model.arch), golden


def test_prompts_end_where_the_golden_says(setting):
    _, _, prompts, golden = setting
    assert [prompt.next_position for prompt in prompts] == golden["next_pos_prompt"].tolist()


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("rows", [256, 3])
def test_greedy_ids_match_alone_shared_and_queued(setting, n, rows):
    _, model, prompts, golden = setting
    engine = Engine(model, Vocabulary(), RolloutConfig(rollout_batch_rows=rows))
    groups = engine.generate(prompts, n, seed=0, greedy=True, max_new_tokens=24)
    for group, want in zip(groups, golden["greedy_ids"], strict=True):
        for completion in group:
            assert completion.ids.tolist() == want.tolist()
            assert not completion.finished


def test_greedy_stops_at_the_stop_ids(setting):
    case, model, prompts, golden = setting
    engine = Engine(model, Vocabulary(stop_ids=tuple(case["eos_ids"])), RolloutConfig(rollout_batch_rows=4))
    for group, want in zip(
        engine.generate(prompts, 2, seed=0, greedy=True, max_new_tokens=24), golden["greedy_eos_ids"], strict=True
    ):
        stops = np.flatnonzero(np.isin(want, case["eos_ids"]))
        want = want[: stops[0] + 1] if len(stops) else want
        assert group[0].ids.tolist() == group[1].ids.tolist() == want.tolist()
        assert group[0].finished == bool(len(stops))


def test_greedy_with_repetition_penalty(setting):
    _, model, prompts, golden = setting
    engine = Engine(model, Vocabulary(), RolloutConfig(repetition_penalty=1.3))
    prompt = prompts[int(golden["reppen_row"])]
    (group,) = engine.generate([prompt], 2, seed=0, greedy=True, max_new_tokens=16)
    assert group[1].ids.tolist() == golden["reppen_ids"][0].tolist()
