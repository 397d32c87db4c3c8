# SPDX-License-Identifier: Apache-2.0
"""Packed attention against the slowest obvious loop, and the columns FlashMask gets against the dense mask."""

import numpy as np
import paddle
import pytest

from r1_mllm.models import attention, dense_attention

HEADS, KV_HEADS, SIZE = 4, 2, 6

# two groups: a prompt of 3 with completions of 2 and 4 tokens, a prompt of 5 with completions of 1, 3 and 2; then a
# group of one completion, which is plainly causal
VISIBLE = np.array([9] * 3 + [5] * 2 + [9] * 4 + [20] * 5 + [15] + [18] * 3 + [20] * 2 + [24] * 4)


def sees(visible_until):
    """[T, T] bool by the rule itself: i may look at j iff j <= i < visible_until[j]."""
    i, j = np.ogrid[: len(visible_until), : len(visible_until)]
    return (j <= i) & (i < visible_until[None])


def slow_attention(qkv, visible_until):
    """[T, H*D], one query head and token at a time; queries are already scaled."""
    total = len(visible_until)
    heads = qkv.reshape(total, HEADS + 2 * KV_HEADS, SIZE).astype(np.float64)
    allowed = sees(visible_until)
    out = np.zeros((total, HEADS, SIZE))
    for head in range(HEADS):
        shared = head // (HEADS // KV_HEADS)
        keys, values = heads[:, HEADS + shared], heads[:, HEADS + KV_HEADS + shared]
        for token in range(total):
            scores = np.where(allowed[token], keys @ heads[token, head], -np.inf)
            weights = np.exp(scores - scores.max())
            out[token, head] = weights @ values / weights.sum()
    return out.reshape(total, -1)


@pytest.mark.parametrize("most", [1, 40, 1 << 22], ids=["batch by batch", "pieces", "whole"])
@pytest.mark.parametrize("limit", [1.0, 1.25, 100.0], ids=["alone", "default", "one block"])
def test_dense_blocks_equal_a_loop_over_tokens(limit, most, monkeypatch):
    monkeypatch.setattr(attention, "PADDING_LIMIT", limit)
    monkeypatch.setattr(dense_attention, "MAX_SCORES", most)
    monkeypatch.setattr(attention, "MIN_STRETCH", 2 if most > 1 else 64)
    qkv = np.random.default_rng(0).normal(size=(len(VISIBLE), (HEADS + 2 * KV_HEADS) * SIZE)).astype(np.float32)
    layout = attention.TextLayout(VISIBLE, HEADS, KV_HEADS, SIZE, False, "float32")
    got = attention.attend(paddle.to_tensor(qkv), layout).numpy()
    np.testing.assert_allclose(got, slow_attention(qkv, VISIBLE), atol=2e-6)


def test_gradients_do_not_cross_completions():
    qkv = np.random.default_rng(1).normal(size=(len(VISIBLE), (HEADS + 2 * KV_HEADS) * SIZE)).astype(np.float32)
    leaf = paddle.to_tensor(qkv, stop_gradient=False)
    layout = attention.TextLayout(VISIBLE, HEADS, KV_HEADS, SIZE, False, "float32")
    attention.attend(leaf, layout)[6].sum().backward()
    touched = np.flatnonzero(np.abs(leaf.grad.numpy()).sum(1) > 1e-20)  # the CPU softmax gives masked keys exp(-64)
    assert touched.tolist() == [0, 1, 2, 5, 6]  # the prompt, and its own past in the second completion


def test_flashmask_columns_expand_to_the_dense_mask():
    columns = attention.flashmask_columns(VISIBLE)
    assert columns.shape == (1, 1, len(VISIBLE), 1) and columns.dtype == np.int32
    # Paddle's rule for causal=True and one column: query i is masked at key j when i < j or i >= column[j]
    i, j = np.ogrid[: len(VISIBLE), : len(VISIBLE)]
    masked = (i < j) | (i >= columns[0, 0, :, 0][None])
    np.testing.assert_array_equal(~masked, sees(VISIBLE))


def test_group_spans_read_prompts_and_completions():
    first, second, third = attention.group_spans(VISIBLE)
    assert (first.start, first.prompt_end, first.end) == (0, 3, 9)
    assert first.completions == ((3, 5), (5, 9))
    assert second.shape == (5, 3, 3)
    assert third.completions == () and third.shape == (4, 0, 0)


def test_segments_see_themselves_only():
    rng = np.random.default_rng(2)
    lengths, order = np.array([2, 2, 3]), np.array([4, 0, 1, 6, 2, 5, 3])
    qkv = rng.normal(size=(7, 3 * 2 * 4)).astype(np.float32)
    layout = attention.SegmentLayout(lengths, order, 2, 4, False, "float32")
    got = attention.attend_segments(paddle.to_tensor(qkv), layout).numpy().reshape(7, 2, 4)
    q, k, v = qkv.reshape(7, 3, 2, 4).transpose(1, 0, 2, 3).astype(np.float64)
    for members in ([4, 0], [1, 6], [2, 5, 3]):
        for token in members:
            for head in range(2):
                weights = np.exp(k[members, head] @ q[token, head])
                np.testing.assert_allclose(got[token, head], weights @ v[members, head] / weights.sum(), atol=1e-5)


def test_no_flash_on_a_cpu():
    assert not attention.flash_available("flash_attention_2", "bfloat16")
    assert not attention.flash_available("eager", "bfloat16")
