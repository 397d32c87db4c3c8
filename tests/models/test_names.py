# SPDX-License-Identifier: Apache-2.0
"""Layouts worked out by hand, and the namings found in files."""

import numpy as np
import pytest

from r1_mllm.models import names
from r1_mllm.models.config import ModelArch

CONFIG = {
    "model_type": "qwen2_5_vl",
    "image_token_id": 3,
    "video_token_id": 4,
    "vision_start_token_id": 5,
    "vision_end_token_id": 6,
    "hidden_size": 24,
    "intermediate_size": 7,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": False,
    "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
    "vocab_size": 11,
    "vision_config": {
        "depth": 1,
        "hidden_size": 8,
        "intermediate_size": 5,
        "num_heads": 2,
        "out_hidden_size": 24,
        "fullatt_block_indexes": [0],
    },
}


def shapes(config):
    return {parameter.name: parameter.shape for parameter in names.parameters(ModelArch.from_dict(config))}


def test_parameters_have_the_shapes_of_our_model():
    found = shapes(CONFIG)
    assert found["text.embed_tokens.weight"] == found["text.lm_head.weight"] == (11, 24)
    assert found["text.layers.1.attn.qkv.weight"] == (24, 40) and found["text.layers.1.attn.qkv.bias"] == (40,)
    assert found["text.layers.0.attn.o.weight"] == (24, 24) and "text.layers.0.attn.o.bias" not in found
    assert found["text.layers.0.mlp.gate_up.weight"] == (24, 14) and "text.layers.0.mlp.gate_up.bias" not in found
    assert found["text.layers.0.mlp.down.weight"] == (7, 24)
    assert found["visual.patch_embed.weight"] == (1176, 8) and "visual.patch_embed.bias" not in found
    assert found["visual.blocks.0.mlp.gate_up.bias"] == (10,) and found["visual.blocks.0.mlp.down.weight"] == (5, 8)
    assert found["visual.merger.fc1.weight"] == (32, 32) and found["visual.merger.fc2.weight"] == (32, 24)
    assert "visual.blocks.0.norm1.bias" not in found and "visual.merger.ln_q.bias" not in found
    assert len(found) == 1 + 2 * 7 + 2 + 1 + 10 + 5


def test_a_tied_model_has_no_head_and_the_older_family_has_biased_norms():
    assert "text.lm_head.weight" not in shapes({**CONFIG, "tie_word_embeddings": True})
    tower = {"depth": 1, "embed_dim": 8, "mlp_ratio": 2, "num_heads": 2, "hidden_size": 24}
    found = shapes({**CONFIG, "model_type": "qwen2_vl", "vision_config": tower})
    assert found["visual.blocks.0.norm2.bias"] == found["visual.merger.ln_q.bias"] == (8,)
    assert found["visual.blocks.0.mlp.fc1.weight"] == (8, 16) and found["visual.blocks.0.mlp.fc2.weight"] == (16, 8)


def joined(parameter, sources):
    out = np.zeros(parameter.shape, np.float32)
    names.join(parameter, sources, out)
    return out.tolist()


def test_query_key_value_stand_side_by_side_transposed():
    parameter = names.Parameter("w", (("q", (2, 3)), ("k", (1, 3))), "linear")
    q, k = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[7, 8, 9]])
    assert joined(parameter, [q, k]) == [[1, 4, 7], [2, 5, 8], [3, 6, 9]]
    assert joined(parameter, [q[:1], q[1:], k]) == [[1, 4, 7], [2, 5, 8], [3, 6, 9]]


def test_biases_are_joined_in_order():
    assert joined(names.Parameter("b", (("q", (2,)), ("k", (1,)))), [np.array([1, 2]), np.array([3])]) == [1, 2, 3]


def test_a_kernel_is_flattened_in_the_order_of_its_axes():
    kernel = np.arange(12).reshape(2, 3, 1, 1, 2)
    parameter = names.Parameter("p", (("proj", (2, 3, 1, 1, 2)),), "patch")
    assert joined(parameter, [kernel]) == [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200])
def test_splitting_undoes_joining_across_stripes(rows):
    rng = np.random.default_rng(rows)
    a, b = rng.normal(size=(rows, 5)).astype(np.float32), rng.normal(size=(70, 5)).astype(np.float32)
    parameter = names.Parameter("w", (("a", a.shape), ("b", b.shape)), "linear")
    out = np.empty(parameter.shape, np.float32)
    names.join(parameter, [a, b], out)
    assert np.array_equal(out, np.concatenate([a, b]).T)
    parts = dict(names.split(parameter, out))
    assert np.array_equal(parts["a"], a) and np.array_equal(parts["b"], b)
    assert all(part.flags.c_contiguous for part in parts.values())


@pytest.mark.parametrize("dtype", [np.float16, np.uint16, np.float32])
def test_large_matrices_of_every_format_are_transposed(dtype):
    a, b = (np.random.default_rng(rows).normal(9, 3, [rows, 400]).astype(dtype) for rows in (200, 180))
    parameter = names.Parameter("w", (("a", a.shape), ("b", b.shape)), "linear")
    assert a.size > names.LARGE
    out = np.empty(parameter.shape, dtype)
    names.join(parameter, [a, b], out)
    assert np.array_equal(out, np.concatenate([a, b]).T)
    assert all(np.array_equal(part, want) for (_, part), want in zip(names.split(parameter, out), (a, b), strict=True))


@pytest.mark.parametrize(
    ("found", "legacy"),
    [
        ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("model.language_model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("language_model.norm.weight", "model.norm.weight"),
        ("model.visual.merger.ln_q.weight", "visual.merger.ln_q.weight"),
        ("visual.merger.ln_q.weight", "visual.merger.ln_q.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", None),
        ("visual.rotary_pos_emb.inv_freq", None),
    ],
)
def test_every_naming_in_use_is_understood(found, legacy):
    assert names.canonical(found) == legacy
