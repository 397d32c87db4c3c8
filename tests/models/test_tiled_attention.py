# SPDX-License-Identifier: Apache-2.0
"""Attention in compiled blocks against attention in dense rectangles, with gradients, alone and shared out."""

import numpy as np
import paddle
import pytest

from r1_mllm.models import attention, crew, host, tiled_attention, tiled_loops
from r1_mllm.models.dense_attention import DenseLayout

pytestmark = pytest.mark.skipif(not host.is_there(), reason="needs numba and a Paddle with MKL")


def group(start, prompt, lengths):
    """`visible_until` of a group, and where the next one starts."""
    end, at = start + prompt + sum(lengths), start + prompt
    visible = [end] * prompt
    for length in lengths:
        at += length
        visible += [at] * length
    return visible, end


def text(heads, kv_heads, size):
    first, end = group(0, 37, [5, 70, 1, 33])
    second, end = group(end, 3, [9, 2])
    third, _ = group(end, 50, [])
    return attention.TextLayout(np.array(first + second + third), heads, kv_heads, size, False, "float32")


def picture(heads, _, size):
    order = np.random.default_rng(3).permutation(210)
    return attention.SegmentLayout(np.array([3, 64, 142, 1]), order, heads, size, False, "float32")


def attended(layout, qkv, slope):
    x = paddle.to_tensor(qkv)
    x.stop_gradient = False
    out = layout.attend(x)
    out.backward(paddle.to_tensor(slope))
    with paddle.no_grad():
        np.testing.assert_array_equal(layout.attend(x).numpy(), out.numpy())
    return out.numpy(), x.grad.numpy()


@pytest.mark.parametrize("team", [1, 3])
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(8, 2, 32), (4, 4, 16), (6, 2, 80)])
@pytest.mark.parametrize("make", [text, picture])
def test_blocks_and_rectangles_agree(make, heads, kv_heads, size, team, monkeypatch):
    kv_heads = heads if make is picture else kv_heads
    monkeypatch.setattr(tiled_loops, "crew", lambda: crew.Crew(team))
    tiled = make(heads, kv_heads, size).plain
    monkeypatch.setattr(tiled_attention, "serves", lambda *_: False)
    dense = make(heads, kv_heads, size).plain
    assert isinstance(tiled, tiled_attention.TiledLayout) and isinstance(dense, DenseLayout)
    rng, num = np.random.default_rng(1), 210
    qkv = rng.normal(size=[num, (heads + 2 * kv_heads) * size]).astype(np.float32)
    qkv[:, : heads * size] *= size**-0.5
    slope = rng.normal(size=[num, heads * size]).astype(np.float32)
    (out, grad), (want_out, want_grad) = (attended(layout, qkv, slope) for layout in (tiled, dense))
    np.testing.assert_allclose(out, want_out, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(grad, want_grad, rtol=1e-4, atol=3e-5)


def test_long_families_are_met_in_several_blocks():
    assert tiled_loops.block_tokens((0, 9, 2000, 0), 1) == 32 and tiled_loops.block_tokens((7, 100007, 0, 1), 4) == 2
    layout = attention.SegmentLayout(np.array([2100]), np.arange(2100), 1, 16, False, "float32").plain
    rng = np.random.default_rng(5)
    qkv = rng.normal(size=[2100, 48]).astype(np.float32)
    q, k, v = np.split(qkv.astype(np.float64), 3, axis=1)
    powers = np.exp(q @ k.T)
    want = powers / powers.sum(axis=1, keepdims=True) @ v
    np.testing.assert_allclose(layout.attend(paddle.to_tensor(qkv)).numpy(), want, rtol=1e-4, atol=1e-5)
