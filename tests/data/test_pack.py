# SPDX-License-Identifier: Apache-2.0
"""Packs laid by hand."""

import numpy as np
import pytest

from r1_mllm.data.pack import pack, plan, supervised_pair
from r1_mllm.records import Completion, Example, Group, Prompt

IMAGE_ID = 99


def make_prompt(ids, patches=0):
    positions = np.tile(np.arange(len(ids)), (3, 1))
    if not patches:
        return Prompt(ids=np.array(ids), positions=positions, next_position=len(ids))
    return Prompt(
        ids=np.array(ids),
        positions=positions,
        next_position=len(ids) - 3,  # a picture takes fewer positions than tokens
        pixels=np.full((patches, 1176), ids[0], np.float32),
        grids=np.array([[1, 2, patches // 2]]),
    )


def make_group(prompt, completions, advantages, finished=True):
    made = [
        Completion(ids=np.array(ids), logprobs=-0.5 * np.array(ids, np.float32), text="", finished=finished)
        for ids in completions
    ]
    return Group(
        example=Example("rec", "", None), prompt=prompt, completions=made, advantages=np.array(advantages, float)
    )


def test_two_groups_share_a_pack_and_see_only_their_own():
    first = make_group(make_prompt([1, 2]), [[3, 4], [5]], [1.0, -2.0])
    second = make_group(make_prompt([6]), [[7], [8, 9]], [0.5, 0.0])
    (batch,) = pack([first, second], 100, {IMAGE_ID})
    assert batch.ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert batch.row.tolist() == [-1, -1, 0, 0, 1, -1, 2, 3, 3]
    assert batch.visible_until.tolist() == [5, 5, 4, 4, 5, 9, 7, 9, 9]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 2, 0, 1, 1, 2]] * 3
    assert batch.mask.tolist() == [False, False, True, True, True, False, True, True, True]
    assert batch.advantages.tolist() == [0, 0, 1, 1, -2, 0, 0.5, 0, 0]
    assert batch.sampler_logp.tolist() == [0, 0, -1.5, -2, -2.5, 0, -3.5, -4, -4.5]
    assert batch.num_rows == 4 and batch.pixels is None and batch.ref_logp is None
    assert batch.row.dtype == batch.visible_until.dtype == np.int32 and batch.ids.dtype == np.int64


def test_pictures_stand_once_per_prompt_and_written_placeholders_do_not_count():
    pictured = make_group(make_prompt([1, IMAGE_ID, IMAGE_ID, 2], patches=8), [[3], [IMAGE_ID, 4]], [1.0, 0.0])
    text = make_group(make_prompt([5]), [[6], [7]], [1.0, 0.0])
    other = make_group(make_prompt([8, IMAGE_ID, 8], patches=4), [[9], [9]], [1.0, 0.0])
    (batch,) = pack([pictured, text, other], 100, {IMAGE_ID})
    assert batch.patch_rows.tolist() == [1, 2, 11]
    assert batch.pixels[:, 0].tolist() == [1] * 8 + [8] * 4
    assert batch.grids.tolist() == [[1, 2, 4], [1, 2, 2]]
    assert batch.positions[0, 4:7].tolist() == [1, 1, 2]  # completions go on from next_position
    assert batch.second_per_grid is None


def test_the_budget_opens_new_packs_and_nothing_is_lost():
    groups = [make_group(make_prompt([i]), [[i] * n, [i]], [1.0, 0.0]) for i, n in enumerate((5, 2, 4, 1))]
    packs = pack(groups, 10, {IMAGE_ID})
    assert [len(batch.ids) for batch in packs] == [10, 10]  # 7 + 3, 6 + 4
    assert sorted(np.concatenate([batch.ids for batch in packs]).tolist()) == [0] * 7 + [1] * 4 + [2] * 6 + [3] * 3
    assert plan(groups, 10) == plan(groups, 10)


def test_a_group_above_the_budget_is_cut_between_completions():
    group = make_group(make_prompt([1, IMAGE_ID, 2], patches=4), [[3] * 4, [4] * 3, [5] * 9, [6]], [1.0, 2.0, 3.0, 4.0])
    packs = pack([group], 10, {IMAGE_ID})
    rows = sorted((batch.ids[3:].tolist(), batch.advantages[-1]) for batch in packs)
    assert rows == [([3] * 4 + [4] * 3, 2.0), ([5] * 9, 3.0), ([6], 4.0)]
    for batch in packs:
        assert batch.pixels.shape == (4, 1176) and batch.patch_rows.tolist() == [1]


def test_truncated_completions_leave_the_loss_when_asked():
    group = make_group(make_prompt([1]), [[2], [3]], [1.0, -1.0])
    group.completions[1].finished = False
    assert pack([group], 9, set())[0].mask.tolist() == [False, True, True]
    assert pack([group], 9, set(), mask_truncated=True)[0].mask.tolist() == [False, True, False]


@pytest.mark.parametrize("budget", [7, 1000])
def test_a_supervised_pair_weighs_every_token_the_same(budget):
    pairs = [supervised_pair(make_prompt([1, 2]), np.array([3, 4])), supervised_pair(make_prompt([5]), np.array([6]))]
    (batch,) = pack(pairs, budget, set())
    assert batch.advantages[batch.mask].tolist() == [1.0, 1.0, 1.0]
    assert batch.ids[batch.mask].tolist() == [3, 4, 6]
