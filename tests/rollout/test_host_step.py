# SPDX-License-Identifier: Apache-2.0
"""The decode step in compiled code gives the logits of the step in Paddle's operators."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from r1_mllm.models import host

if not host.is_there():
    pytest.skip("needs numba and a Paddle with MKL", allow_module_level=True)

from r1_mllm.config import RolloutConfig
from r1_mllm.models import crew, tiles
from r1_mllm.models.weights import load_pretrained
from r1_mllm.rollout import host_step
from r1_mllm.rollout.decoder import Decoder
from r1_mllm.rollout.engine import Engine

FOLDER = Path(__file__).parents[1] / "golden" / "cases" / "e2e"


@pytest.fixture(scope="module")
def model():
    return load_pretrained(FOLDER / "checkpoint")


@pytest.fixture(scope="module")
def prompts(ask):
    return [ask("How many?", "a.png"), ask("Which one is brighter, please?", "b.jpg"), ask("Why?")]


@paddle.no_grad()
def logits_of_steps(model, prompts, on_host):
    """Two prompts x 3 rows for 5 steps; one row leaves and a third prompt joins; 70 steps more, over a grown tail, in
    which the first prompt joins once more; its rows then stay alone, the columns before theirs dropped, for 40 more.
    """
    decoder = Decoder(model)
    assert decoder.on_host
    decoder.on_host = on_host
    decoder.tables = None
    cache, found = decoder.new_cache(), []
    ids = np.random.default_rng(7).integers(100, 900, [115, 8])

    def feed(steps, starts, rows):
        for step in steps:
            if cache.full:
                cache.regrid(np.arange(rows).reshape(cache.shape), np.arange(len(cache.first_column)), None)
            positions = np.array(starts) + step
            found.append(decoder.step(ids[step, :rows], positions, cache, np.ones(rows, np.int64)).numpy().copy())

    added, _ = decoder.prefill(prompts[:2], decoder.encode_images(prompts[:2]))
    cache.regrid(np.full([2, 3], -1), np.zeros([0], np.int64), added)
    first, second, third = (prompt.next_position for prompt in prompts)
    feed(range(5), [first] * 3 + [second] * 3, 6)
    added, _ = decoder.prefill(prompts[2:], decoder.encode_images(prompts[2:]))
    cache.regrid(np.array([[0, 2], [3, 4], [-1, -1]]), np.arange(2), added)
    feed(range(5, 45), [first] * 2 + [second] * 2 + [third - 5] * 2, 6)
    added, _ = decoder.prefill(prompts[:1], decoder.encode_images(prompts[:1]))
    cache.regrid(np.array([[0, 1], [2, 3], [4, 5], [-1, -1]]), np.arange(3), added)
    feed(range(45, 75), [first] * 2 + [second] * 2 + [third - 5] * 2 + [first - 45] * 2, 8)
    cache.regrid(np.array([[7, 6]]), np.array([3]), None)
    assert cache.column == 75 - (32 if on_host else 45) and (cache.first_column == (13 if on_host else 0)).all()
    feed(range(75, 115), [first - 45] * 2, 2)
    return found


def test_both_steps_agree(model, prompts):
    assert len({len(prompt.ids) for prompt in prompts}) == 3  # prompts and tails are masked
    on_host, on_device = (logits_of_steps(model, prompts, which) for which in (True, False))
    assert len(on_host) == 115
    for step, (got, want) in enumerate(zip(on_host, on_device, strict=True)):
        np.testing.assert_allclose(got, want, atol=2e-4, rtol=1e-4, err_msg=f"step {step}")
    assert np.abs(on_host[3][0] - on_host[4][0]).max() > 0.1  # the steps differ among themselves


@pytest.mark.parametrize(
    ("team", "places"),
    [(3, 7), pytest.param(1, 64, marks=pytest.mark.slow), pytest.param(3, 64, marks=pytest.mark.slow)],
)
def test_many_steps_at_once_draw_what_single_ones_draw(model, prompts, monkeypatch, team, places):
    """Rows stop everywhere; steps end when many have, when the tail is full, when a row is as long as it may be."""
    taken = []

    class Often:
        stop_ids, banned_ids = tuple(range(0, 2000, 90)), (5, 700)

        @staticmethod
        def decode(ids, skip_special_tokens):
            return ""

    def steps(self, ids, positions, cache, sampler, uniforms, ends):
        found = plain(self, ids, positions, cache, sampler, uniforms, ends)
        taken.append((len(found[0]), len(uniforms), int((ends.left > 0).sum()), ends.least))
        return found

    plain = Decoder.steps
    monkeypatch.setattr(host_step, "crew", lambda: crew.Crew(team))
    monkeypatch.setattr(Decoder, "steps", steps)
    found = []
    for draws in (True, False):
        monkeypatch.setattr(Decoder, "draws", draws)
        engine = Engine(
            model, Often, RolloutConfig(max_completion_length=90, temperature=0.9, rollout_batch_rows=places)
        )
        found.append(engine.generate(prompts, 6, seed=2))
    for one, other in zip(*([row for group in groups for row in group] for groups in found), strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.logprobs, other.logprobs)
    assert any(took == most for took, most, _, _ in taken)
    assert any(took < most for took, most, _, _ in taken) == (places == 7)  # where prompts wait for rows to stop
    assert all(live <= least for took, most, live, least in taken if took < most)
    assert all(live > 0 or took == most or least == 0 for took, most, live, least in taken)


@pytest.mark.parametrize("limit", [0, 1 << 26])
def test_packed_weights_live_as_long_as_they_are_used(limit, monkeypatch):
    monkeypatch.setattr(host_step, "SPARE_LIMIT", limit)  # 0: memory is given back at the end
    weight = np.random.default_rng(2).normal(size=[300, 640]).astype(np.float32)
    tensor = paddle.to_tensor(weight)
    turned = host_step.Columns(paddle.to_tensor(weight.T.copy()), 600, 40, transposed=True)
    packed = host_step.Packed(host_step.Columns(tensor, 10), turned, host_step.Columns(tensor, 7, 50))
    assert packed.addresses[0] % host.HUGE_PAGE == 0
    others = [np.full_like(packed.memory, np.nan) for _ in range(3)]  # would take memory that was given back too soon
    x = np.ones([2, 300], np.float32)
    for address, expected in zip(packed.addresses, (weight[:, 10:], weight[:, 600:], weight[:, 7:57]), strict=True):
        width = expected.shape[1]
        out = np.empty([2, width], np.float32)
        tiles.packed_product(2, width, 300, x.ctypes.data, 300, address, out.ctypes.data, width, 0, 0, 1)
        np.testing.assert_allclose(out, np.tile(expected.sum(axis=0, dtype=np.float64), [2, 1]), rtol=1e-4, atol=1e-4)
    assert len(others) == 3


def test_no_memory_for_packed_weights_is_no_other_error(monkeypatch):
    monkeypatch.setattr(host_step.math, "prod", lambda shape: 1 << 55)  # more than addresses reach
    with pytest.raises(MemoryError, match="packed weights"):
        host_step.Packed(host_step.Columns(paddle.zeros([2, 2])))
