# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders: healthy ones survive a round trip to the bit, damaged ones are named and refused."""

import json

import numpy as np
import pytest

from r1_mllm.models.config import ModelArch
from r1_mllm.models.names import canonical
from r1_mllm.models.weights import find_tensors, load_pretrained, save_pretrained

# What the message must name besides the file or folder, where the case promises more than that.
NAMED = {
    "missing_shard": "model-00001-of-00002.safetensors",
    "lfs_pointer": "git lfs pull",
    "wrong_model_type": "unsupported model type 'llama'",
    "no_model_type": "model_type is missing",
    "mrope_sum": "mrope_section",
    "heads_do_not_divide": "num_attention_heads",
    "rope_type_yarn": "yarn",
    "sliding_window_on": "use_sliding_window",
    "missing_tensor": "missing (1)",
    "unexpected_tensor": "surplus (1)",
    "too_many_layers": "missing (12)",
    "vocab_disagrees": "model.embed_tokens.weight is [96,",
    "index_leaves_folder": "'../",
    "only_bin": "safetensors",
}


def test_a_published_folder_survives_the_round_trip(models_case, tmp_path):
    arch = ModelArch.from_pretrained(models_case)
    model = load_pretrained(models_case, "auto")
    save_pretrained(model, tmp_path, max_shard_bytes=300_000, source_dir=models_case)
    before, after = find_tensors(models_case, arch), find_tensors(tmp_path, ModelArch.from_pretrained(tmp_path))
    assert before.keys() == after.keys() and all(canonical(name) == name for name in after)
    for name, entry in before.items():
        assert entry.dtype == after[name].dtype
        assert np.array_equal(entry.read(), after[name].read()), name
    assert ModelArch.from_pretrained(tmp_path) == arch
    assert (tmp_path / "generation_config.json").read_bytes() == (models_case / "generation_config.json").read_bytes()


def test_damaged_checkpoints_are_refused_and_healthy_ones_load(pathological_case):
    items = json.loads((pathological_case / "case.json").read_text())["items"]
    folders = {
        item["path"]: item["a_good_program"] for item in items if (item["path"] or "").startswith("checkpoints/")
    }
    assert folders
    for path, verdict in folders.items():
        folder = pathological_case / path
        if verdict.startswith(("loads", "load both")):
            load_pretrained(folder)
            continue
        with pytest.raises(ValueError) as caught:
            load_pretrained(folder)
        assert str(folder) in str(caught.value)
        assert NAMED.get(folder.name, "") in str(caught.value)


def test_a_nan_in_a_weight_is_found_when_asked_for(pathological_case):
    with pytest.raises(ValueError, match="holds NaN"):
        load_pretrained(pathological_case / "checkpoints" / "nan_weight", check_finite=True)
