# SPDX-License-Identifier: Apache-2.0
"""Passes on several threads leave the gradients and results of one thread."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from r1_mllm.data.pack import balance, pack, supervised_pair
from r1_mllm.models import team, threads
from r1_mllm.models.weights import load_pretrained
from r1_mllm.processing.prompt import Processor

FOLDER = Path(__file__).parents[1] / "golden" / "cases" / "e2e"


@pytest.fixture
def setting():
    processor = Processor.from_pretrained(FOLDER / "checkpoint")
    groups = []
    for i, images in enumerate((["a.png"], ["b.jpg", "c.png"], [], ["c.png"], [])):
        content = [{"type": "image"} for _ in images] + [{"type": "text", "text": "How many? " * (i + 1)}]
        prompt = processor.encode([{"role": "user", "content": content}], [str(FOLDER / "images" / n) for n in images])
        groups.append(supervised_pair(prompt, np.arange(20 + i, 30 + 3 * i)))
    return load_pretrained(FOLDER / "checkpoint"), groups, [processor.tokenizer.image_pad_id]


def backward(model, batch):
    loss = (model.token_logp(batch) * paddle.to_tensor(batch.mask.astype(np.float32))).sum()
    loss.backward()
    return loss.item()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("num_threads", [2, 3])
def test_gradients_and_results_equal_those_of_one_thread(setting, monkeypatch, num_threads, frozen):
    model, groups, visual = setting
    model.set_freeze_vision(frozen)
    batches = [pack([group], 4096, visual)[0] for group in groups]
    found = {}
    for size in (1, num_threads, num_threads):
        monkeypatch.setattr(threads, "count", lambda size=size: size)
        calls = []
        results = team.run(model, backward, batches, lambda calls=calls: calls.append(1))
        grads = {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}
        model.clear_gradients()
        if size == 1:
            want, want_grads = results, grads
            assert len(calls) == len(batches)
            continue
        np.testing.assert_allclose(results, want, rtol=1e-5)
        assert grads.keys() == want_grads.keys() and any("visual" in name for name in grads) != frozen
        for name, grad in grads.items():
            np.testing.assert_allclose(grad, want_grads[name], atol=1e-4 * np.abs(want_grads[name]).max(), err_msg=name)
        if found:  # the same again, to the bit
            assert all((grad == found[name]).all() for name, grad in grads.items())
        found = grads


def test_a_twin_sees_every_change_of_the_weights(setting, monkeypatch):
    model, groups, visual = setting
    monkeypatch.setattr(threads, "count", lambda: 2)
    batches = [pack([group], 4096, visual)[0] for group in groups[:2]]
    before = team.run(model, backward, batches)
    weight = model.text.norm.weight
    weight.set_value(weight * 1.5)
    after = team.run(model, backward, batches)
    model.clear_gradients()
    assert abs(after[0] - before[0]) > 1e-3 and abs(after[1] - before[1]) > 1e-3


def test_errors_come_back_from_the_threads(monkeypatch):
    monkeypatch.setattr(threads, "count", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        threads.run(lambda x: 1 // x, [1, 0, 2])
    assert threads.run(lambda x: 2 * x, [1, 2, 3]) == [2, 4, 6]


def test_gradients_stay_switched_off_in_threads(monkeypatch):
    monkeypatch.setattr(threads, "count", lambda: 2)
    with paddle.no_grad():
        assert threads.run(lambda _: paddle.is_grad_enabled(), [0, 1]) == [False, False]
    assert threads.run(lambda _: paddle.is_grad_enabled(), [0, 1]) == [True, True]


def test_balance_evens_out_and_groups_stay_whole(setting):
    _, groups, visual = setting
    sizes = [len(group.prompt.ids) + len(group.completions[0].ids) for group in groups]
    packs = balance(groups, 2)
    filled = [sum(sizes[share.group] for share in shares) for shares in packs]
    assert sorted(share.group for shares in packs for share in shares) == [0, 1, 2, 3, 4]
    assert abs(filled[0] - filled[1]) <= max(sizes)
    assert len(pack(groups, 4096, visual, at_least=3)) == 3
    assert len(pack(groups[:2], 4096, visual, at_least=3)) == 1
