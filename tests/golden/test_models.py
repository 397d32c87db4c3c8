# SPDX-License-Identifier: Apache-2.0
"""Checkpoints with known outputs: embeddings, logits, log-probabilities, entropies, gradients."""

import json

import numpy as np
import paddle
import pytest

from r1_mllm.models.weights import load_pretrained, published_tensors
from r1_mllm.processing.positions import rope_positions
from r1_mllm.records import PackedBatch


@pytest.fixture(scope="module")
def loaded():
    """Models by folder, loaded once per module."""
    kept = {}

    def get(path):
        if path not in kept:
            kept.clear()
            kept[path] = load_pretrained(path, dtype="float32")
        return kept[path]

    return get


def rows_of(inputs):
    """Real prompt ids and completion ids of each row."""
    for i in range(len(inputs["prompt_ids"])):
        prompt = inputs["prompt_ids"][i][inputs["prompt_mask"][i] == 1]
        completion = inputs["completion_ids"][i][inputs["completion_mask"][i] == 1]
        yield prompt, completion


def packed(inputs, arch):
    """All rows in one pack, a group of one completion each."""
    ids, positions, row, visible = [], [], [], []
    grids = inputs["image_grid_thw"]
    used = 0
    for i_row, (prompt, completion) in enumerate(rows_of(inputs)):
        full = np.concatenate([prompt, completion])
        num_images = int((prompt == arch.vision_start_token_id).sum())
        place, _ = rope_positions(
            full,
            grids[used : used + num_images],
            (arch.image_token_id, arch.video_token_id),
            arch.vision.merge_size,
            arch.vision.tokens_per_second or None,
        )
        used += num_images
        ids.append(full)
        positions.append(place)
        row += [-1] * len(prompt) + [i_row] * len(completion)
        visible += [len(visible) + len(full)] * len(full)
    ids, row = np.concatenate(ids), np.array(row, np.int32)
    return PackedBatch(
        ids=ids,
        positions=np.concatenate(positions, axis=1),
        visible_until=np.array(visible, np.int32),
        row=row,
        num_rows=len(inputs["prompt_ids"]),
        mask=row >= 0,
        sampler_logp=np.zeros(len(ids), np.float32),
        advantages=np.zeros(len(ids), np.float32),
        pixels=inputs["pixel_q"].astype(np.float32) / 48 if len(grids) else None,
        grids=grids if len(grids) else None,
        patch_rows=np.flatnonzero(ids == arch.image_token_id),
    )


@pytest.fixture
def setting(models_case, loaded):
    case = json.loads((models_case / "case.json").read_text())
    model = loaded(models_case)
    inputs, golden = np.load(models_case / "inputs.npz"), np.load(models_case / "golden.npz")
    return case, model, inputs, golden, packed(inputs, model.arch)


def test_image_embeddings_match(setting):
    case, model, _, golden, batch = setting
    with paddle.no_grad():
        got = model.embed_images(batch.pixels, batch.grids).numpy()
    np.testing.assert_allclose(got, golden["image_embeds"], atol=case["tolerance"]["image_embeds"], rtol=0)


def test_logits_match(setting):
    case, model, inputs, golden, batch = setting
    with paddle.no_grad():
        logits = model.logits(model.hidden(batch)).numpy()
    start = 0
    for i, (prompt, completion) in enumerate(rows_of(inputs)):
        first = start + len(prompt) - 1
        want = golden["logits"][i][golden["logits_mask"][i]]
        got = logits[first : first + len(want)]
        np.testing.assert_allclose(got, want, atol=case["tolerance"]["logits"], rtol=0)
        start += len(prompt) + len(completion)


def test_log_probabilities_and_entropies_match(setting):
    case, model, inputs, golden, batch = setting
    logp, entropy = model.token_logp_and_entropy(batch)
    mask = inputs["completion_mask"] == 1
    np.testing.assert_allclose(logp[batch.mask], golden["logps"][mask], atol=case["tolerance"]["logps"], rtol=0)
    np.testing.assert_allclose(entropy[batch.mask], golden["entropy"][mask], atol=case["tolerance"]["logps"], rtol=0)


def test_loss_and_gradients_match(setting, models_case):
    case, model, _, golden, batch = setting
    model.clear_gradients()
    logp = model.token_logp(batch)
    loss = -(logp * paddle.to_tensor(batch.mask.astype(np.float32))).sum() / float(batch.mask.sum())
    loss.backward()
    assert abs(float(loss) - float(golden["loss"])) <= case["tolerance"]["loss"]
    grads = {name: parameter.grad.numpy() for name, parameter in model.state_dict().items()}
    grads = dict(published_tensors(grads, model.arch))
    norms = json.loads((models_case / "grad_norms.json").read_text())
    assert set(norms) == set(grads)
    for name, norm in norms.items():
        got = float(np.linalg.norm(grads[name].astype(np.float64)))
        assert got == pytest.approx(norm, rel=case["tolerance"]["grad_norm_rel"], abs=1e-7), name
    full = np.load(models_case / "grads.npz")
    for name in full:
        worst = np.abs(grads[name] - full[name]).max() / np.abs(full[name]).max()
        assert worst <= case["tolerance"]["grad_max_abs_over_max"], name
    model.clear_gradients()
