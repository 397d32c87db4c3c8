# SPDX-License-Identifier: Apache-2.0
"""Paddle's fused GPU kernels, not run here: what they are given, by stand-ins that follow Paddle's documentation."""

import numpy as np
import paddle
import pytest
from paddle.incubate.nn import functional as incubate
from paddle.nn import functional as F

from r1_mllm.models import fused, kernels, layers


def documented_rms_norm(x, normalized_shape, weight=None, eps=1e-5, name=None):
    assert list(normalized_shape) == x.shape[-1:] == weight.shape
    inverse = paddle.rsqrt((x * x).mean(-1, keepdim=True) + eps)
    return x * inverse * weight, inverse.reshape([-1])


def documented_fused_rms_norm(x, norm_weight, norm_bias, epsilon, begin_norm_axis=1, **rest):
    assert begin_norm_axis == x.ndim - 1 and norm_bias is None and not rest
    return documented_rms_norm(x, x.shape[-1:], norm_weight, epsilon)[0], None


def documented_rotary(
    q, k=None, v=None, sin=None, cos=None, position_ids=None, use_neox_rotary_style=True, time_major=False, **rest
):
    """ "True: every two adjacent numbers ... False: the front half and back half"."""
    batch, length, _, size = q.shape
    assert sin.shape == cos.shape == [1, length, 1, size] and batch == 1 and v is None and not time_major and not rest

    def turned(x):
        if use_neox_rotary_style:
            pairs = x.reshape([*x.shape[:3], -1, 2])
            swapped = paddle.stack([-pairs[..., 1], pairs[..., 0]], -1).reshape(x.shape)
        else:
            front, back = paddle.split(x, 2, axis=3)
            swapped = paddle.concat([-back, front], 3)
        return x * cos + swapped * sin

    return turned(q), turned(k), None


@pytest.fixture(autouse=True)
def fresh():
    fused.rms_norm_is_right.cache_clear()
    fused.rotate_is_right.cache_clear()
    yield
    fused.rms_norm_is_right.cache_clear()
    fused.rotate_is_right.cache_clear()


@pytest.mark.parametrize("newer", [True, False])
def test_norms_are_called_as_documented(monkeypatch, newer):
    if newer:
        monkeypatch.setattr(F, "rms_norm", documented_rms_norm, raising=False)
    else:
        monkeypatch.delattr(F, "rms_norm", raising=False)
        monkeypatch.setattr(incubate, "fused_rms_norm", documented_fused_rms_norm)
    assert fused.rms_norm_is_right(kernels._rms_norm_plain, "float32")


def test_a_norm_without_its_weight_is_found_out(monkeypatch, caplog):
    def wrong(x, shape, weight, eps):
        return (documented_rms_norm(x, shape, paddle.ones_like(weight), eps)[0] + 0 * weight,)

    monkeypatch.setattr(F, "rms_norm", wrong, raising=False)
    assert not fused.rms_norm_is_right(kernels._rms_norm_plain, "float32")
    assert "gives other numbers" in caplog.text


def test_kernels_this_machine_lacks_are_left_out_with_a_warning(caplog):
    assert not fused.rotate_is_right(layers._rotate_apart, "float32")
    assert not fused.rms_norm_is_right(kernels._rms_norm_plain, "float32")
    assert caplog.text.count("does not run here") == 2


def test_rotary_turns_halves_and_leaves_values(monkeypatch):
    monkeypatch.setattr(incubate, "fused_rotary_position_embedding", documented_rotary)
    assert fused.rotate_is_right(layers._rotate_apart, "float32")
    fused.rotate_is_right.cache_clear()
    neox = lambda *args, use_neox_rotary_style, **rest: documented_rotary(*args, **rest)  # noqa: E731
    monkeypatch.setattr(incubate, "fused_rotary_position_embedding", neox)
    assert not fused.rotate_is_right(layers._rotate_apart, "float32")


def test_tables_of_the_kernel_turn_as_those_of_the_loops(monkeypatch):
    monkeypatch.setattr(incubate, "fused_rotary_position_embedding", documented_rotary)
    rng = np.random.default_rng(0)
    half, heads = rng.uniform(0, 6, [7, 8]), (4, 2, 2)
    angles, rows = np.concatenate([half, half], axis=1), rng.normal(size=[7, 8 * 16]).astype(np.float32)
    want = layers.RotaryTables(angles, heads, 0.25, "float32")
    monkeypatch.setattr(kernels, "on_cpu", lambda: False)
    got = layers.RotaryTables(angles, heads, 0.25, "float32")
    assert got.by_kernel
    for direction in (1, -1):
        turned = [tables.rotate(paddle.to_tensor(rows), direction).numpy() for tables in (got, want)]
        np.testing.assert_allclose(*turned, atol=1e-5)
