# SPDX-License-Identifier: Apache-2.0
"""The compiled loops against plain numpy in float64, and the network with them against the network without."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from r1_mllm.data.pack import pack
from r1_mllm.models import host
from r1_mllm.models.dense_attention import DenseLayout, Rectangle
from r1_mllm.models.head import token_logp
from r1_mllm.models.layers import RotaryTables
from r1_mllm.models.weights import load_pretrained
from r1_mllm.processing.prompt import Processor
from r1_mllm.records import Completion, Example, Group

pytestmark = pytest.mark.skipif(not host.is_there(), reason="needs numba and a Paddle with MKL")
CHECKPOINT = Path(__file__).parents[1] / "golden" / "cases" / "e2e" / "checkpoint"


def values(*shape, seed=1, size=1.0):
    return (np.random.default_rng([seed, *shape]).normal(size=shape) * size).astype(np.float32)


def empty(*shape):
    return np.full(shape, np.nan, np.float32)


def softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_softmax_of_far_apart_scores():
    scores = np.array([[0.0, 1.0, 2.0], [-1e9, 700.0, 698.0], [5.0, -1e9, -1e9]], np.float32)
    want = softmax(scores.astype(np.float64))
    host.loops().softmax(scores)
    np.testing.assert_allclose(scores, want, rtol=1e-6)
    assert scores[2, 1] == 0.0 and scores[1, 0] == 0.0  # exactly: what is masked has no gradient


def test_masked_softmax_reads_its_part_of_the_mask():
    scores, mask = values(2, 3), np.array([[0, -1e9, 0, 7], [-1e9, 0, 0, 7]], np.float32)
    want = softmax(scores.astype(np.float64) + mask[:, :3])
    host.loops().masked_softmax(scores, mask)
    np.testing.assert_allclose(scores, want, rtol=1e-6)


def test_powers_over_the_whole_range():
    """A softmax of two scores is a power and 1: its ratio shows the power's own error."""
    x = np.linspace(-86.9, 0, 1001).astype(np.float32)
    pairs = np.stack([x, np.zeros_like(x)], axis=1)
    host.loops().softmax(pairs)
    np.testing.assert_allclose(pairs[:, 0] / pairs[:, 1], np.exp(x.astype(np.float64)), rtol=5e-7)


def test_silu_at_both_ends():
    gate, out = np.array([[-200.0, -2.0, 0.0, 3.0, 200.0]], np.float32), empty(1, 5)
    host.loops().silu_times(gate, np.full_like(gate, 10.0), out)
    np.testing.assert_allclose(out, [[0.0, -2.3840585, 0.0, 28.577224, 2000.0]], rtol=1e-6, atol=1e-30)


def test_logp_of_far_apart_logits():
    logits, targets = values(5, 9, size=300.0), np.array([3, 0, 8, 2, 2])
    kept, logp, grad = logits.copy(), empty(5), np.arange(1, 6, dtype=np.float32)
    wide = logits.astype(np.float64)
    top = wide.max(1, keepdims=True)
    want = wide - top - np.log(np.exp(wide - top).sum(1, keepdims=True))
    host.loops().pick_logp(kept, targets, logp)
    np.testing.assert_allclose(logp, want[np.arange(5), targets], rtol=1e-6, atol=2e-7)
    assert want[np.arange(5), targets].min() < -200
    host.loops().pick_logp_gradient(kept, targets, grad)
    np.testing.assert_allclose(kept, grad[:, None] * (np.eye(9)[targets] - np.exp(want)), atol=1e-6)


@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("size", [1.0, 12.0])
def test_attention_and_its_gradient_by_the_formula(size, loops, monkeypatch):
    """At size 12 scores reach several hundred."""
    if not loops:
        monkeypatch.setattr(host, "serves", lambda x: False)
    qkv = values(6, 12, size=size)  # one head of 4: [q | k | v]
    tokens = np.arange(6)[None]
    mask = np.where(np.tril(np.ones([6, 6])) > 0, 0.0, -1e9)[None].astype(np.float32)
    layout = DenseLayout([Rectangle(tokens * 3, tokens, tokens * 3 + 1, tokens * 3 + 2, mask)], 6, 1, 4, "float32")
    leaf = paddle.to_tensor(qkv, stop_gradient=False)
    out = layout.attend(leaf)
    out.sum().backward()
    q, k, v = np.split(qkv.astype(np.float64), 3, axis=1)
    weights = softmax(q @ k.T + mask[0])
    np.testing.assert_allclose(out.numpy(), weights @ v, rtol=1e-4, atol=1e-5)
    grad_weights = np.ones([6, 4]) @ v.T
    grad_scores = weights * (grad_weights - (weights * grad_weights).sum(1, keepdims=True))
    want = np.concatenate([grad_scores @ k, grad_scores.T @ q, weights.T @ np.ones([6, 4])], axis=1)
    np.testing.assert_allclose(leaf.grad.numpy(), want, rtol=1e-3, atol=1e-4 * size**2)


@pytest.mark.parametrize("loops", [True, False])
def test_logp_at_a_low_temperature_and_its_gradient(loops, monkeypatch):
    if not loops:
        monkeypatch.setattr(host, "serves", lambda x: False)
    temperature, targets, scale = 0.05, np.array([1, 10, 4, 4, 0, 7, 2]), np.arange(1.0, 8.0)
    hidden, weight = values(7, 5, size=3.0), values(11, 5, size=2.0)
    logits = (hidden.astype(np.float64) @ weight.T) / temperature
    top = logits.max(1, keepdims=True)
    want = (logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True)))[np.arange(7), targets]
    assert want.min() < -300
    leaves = [paddle.to_tensor(array, stop_gradient=False) for array in (hidden, weight)]
    logp = token_logp(*leaves, paddle.to_tensor(targets), temperature)
    np.testing.assert_allclose(logp.numpy(), want, rtol=1e-4, atol=1e-4)
    (logp * paddle.to_tensor(scale.astype(np.float32))).sum().backward()
    slope = (np.eye(11)[targets] - softmax(logits)) * scale[:, None] / temperature
    np.testing.assert_allclose(leaves[0].grad.numpy(), slope @ weight, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(leaves[1].grad.numpy(), slope.T @ hidden, rtol=1e-3, atol=1e-3)


def test_rotary_tables_turn_alike_with_and_without_loops(monkeypatch):
    half = values(5, 3)
    angles, heads, rows = np.concatenate([half, half], axis=1), (4, 2, 2), values(5, 8 * 6)
    outs = []
    for loops in (True, False):
        monkeypatch.setattr(host, "is_there", lambda loops=loops: loops)
        tables = RotaryTables(angles, heads, 0.25, "float32")
        leaf = paddle.to_tensor(rows, stop_gradient=False)
        out = tables.apply(leaf)
        (out * paddle.to_tensor(values(5, 8 * 6, seed=2))).sum().backward()
        outs.append((out.numpy(), leaf.grad.numpy()))
    for looped, plain in zip(*outs, strict=True):
        np.testing.assert_allclose(looped, plain, atol=1e-6)
    np.testing.assert_array_equal(outs[0][0][:, 36:], rows[:, 36:])  # values stay
    first = rows[2, 0] * np.cos(half[2, 0]) - rows[2, 3] * np.sin(half[2, 0])
    assert outs[0][0][2, 0] == pytest.approx(0.25 * first, rel=1e-5)


def test_the_network_is_the_same_with_and_without_loops(monkeypatch):
    processor = Processor.from_pretrained(CHECKPOINT)
    picture = str(CHECKPOINT.parent / "images" / "a.png")
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}
    prompt = processor.encode([message], [picture])
    done = [Completion(np.arange(40, 40 + n), np.zeros(n, np.float32), "", True) for n in (5, 9, 2)]
    found = []
    for loops in (True, False):
        if not loops:
            monkeypatch.setattr(host, "serves", lambda x: False)
            monkeypatch.setattr(host, "is_there", lambda: False)
        model = load_pretrained(CHECKPOINT)
        ids = {model.arch.image_token_id, model.arch.video_token_id}
        batch = pack([Group(Example("counting", "", 0), prompt, done)], 4096, ids)[0]
        logp = model.token_logp(batch, 0.7)
        (logp * paddle.to_tensor(values(len(batch.ids)))).sum().backward()
        found.append([logp.numpy(), *(parameter.grad.numpy() for parameter in model.parameters())])
    for looped, plain in zip(*found, strict=True):
        scale = np.abs(plain).max()
        np.testing.assert_allclose(looped, plain, atol=2e-5 * max(scale, 1e-3))


def test_nan_and_infinity_are_not_hidden():
    rows = np.array([[1.0, np.nan, 2.0], [1.0, np.inf, 2.0], [np.nan, 1.0, 2.0]], np.float32)
    host.loops().softmax(rows)
    assert np.isnan(rows).all(1)[[0, 2]].all() and np.isnan(rows[1]).all()
    gate, out = np.array([[np.nan, np.inf, 1.0]], np.float32), empty(1, 3)
    host.loops().silu_times(gate, np.ones_like(gate), out)
    assert np.isnan(out[0, 0]) and np.isinf(out[0, 1])
    logits, logp = np.array([[0.0, np.nan], [np.nan, 0.0]], np.float32), empty(2)
    host.loops().pick_logp(logits, np.array([0, 1]), logp)
    assert np.isnan(logp).all()


COMPILE = Path(__file__).parents[1] / "compile_loops.py"


@pytest.mark.slow
def test_a_process_that_compiles_computes_the_bits_of_one_that_finds_the_loops_compiled(tmp_path):
    cache = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    told = [subprocess.run([sys.executable, COMPILE], env=cache, capture_output=True) for _ in range(2)]
    assert told[0].stdout == told[1].stdout and len(told[0].stdout) == 65, told
    assert list(tmp_path.rglob("*.nbc"))


def test_what_was_compiled_from_other_sources_is_dropped(tmp_path):
    loops = pytest.importorskip("r1_mllm.models.loops", exc_type=ImportError)
    folder = str(tmp_path / "kept")
    loops.drop_stale(folder, "one")
    for name in ("loops.softmax-1.py311.nbi", "loops.softmax-1.py311.1.nbc"):
        (tmp_path / "kept" / name).touch()
    loops.drop_stale.cache_clear()
    loops.drop_stale(folder, "one")
    assert len(list(tmp_path.glob("kept/*.nbi"))) == 1
    loops.drop_stale(folder, "another")
    assert [path.name for path in sorted(tmp_path.glob("kept/*.nbi"))] == []
    assert [path.name for path in tmp_path.glob("kept/*.sources")] == ["r1_mllm-another.sources"]


def test_every_file_of_compiled_loops_is_named():
    loops = pytest.importorskip("r1_mllm.models.loops", exc_type=ImportError)
    package = Path(loops.__file__).parents[1]
    users = {str(p.relative_to(package)) for p in package.rglob("*.py") if "numba import" in p.read_text("utf-8")}
    assert users == set(loops.COMPILED)
