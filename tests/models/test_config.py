# SPDX-License-Identifier: Apache-2.0
"""Sizes read from config.json: hand-written files, and what must be refused."""

import contextlib
import copy
import dataclasses
import json

import pytest

from r1_mllm.models.config import FAMILIES, ModelArch

# The sizes of Qwen2.5-VL-3B as the hub publishes them.
HUB_25 = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "eos_token_id": 151645,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "max_position_embeddings": 128000,
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": 151936,
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": 2048,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
    },
}
# The sizes of Qwen2-VL-2B.
HUB_2 = {
    "model_type": "qwen2_vl",
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_hidden_layers": 28,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": True,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": 151936,
    "vision_config": {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "hidden_size": 1536},
}


def changed(config, **fields):
    """Copy a config with fields replaced; `vision_config__x` reaches inside, None removes."""
    config = copy.deepcopy(config)
    for path, value in fields.items():
        *outer, name = path.split("__")
        section = config[outer[0]] if outer else config
        section.pop(name, None) if value is None else section.update({name: value})
    return config


def test_the_hub_file_of_a_3b_model_reads_as_published():
    arch = ModelArch.from_dict(HUB_25)
    assert arch.text.head_dim == 128 and arch.text.mrope_section == (16, 24, 24) and arch.text.tie_word_embeddings
    assert arch.vision.head_dim == 80 and arch.vision.patch_dim == 1176 and arch.vision.merge_size == 2
    assert arch.vision.window_size == 112 and arch.vision.full_attention_blocks == (7, 15, 23, 31)
    assert (arch.vision.norm, arch.vision.mlp, arch.vision.norm_eps) == ("rms", "swiglu", 1e-6)
    assert arch.vision.tokens_per_second == 2 and arch.eos_token_id == (151645,) and arch.pad_token_id is None
    assert arch.box_units == "seen_px" and arch.weights_dtype == "bfloat16"


def test_the_older_family_names_its_vision_sizes_otherwise():
    arch = ModelArch.from_dict(HUB_2)
    assert (arch.vision.hidden_size, arch.vision.intermediate_size, arch.vision.out_hidden_size) == (1280, 5120, 1536)
    assert arch.vision.window_size == 0 and arch.vision.full_attention_blocks == tuple(range(32))
    assert (arch.vision.norm, arch.vision.mlp, arch.box_units) == ("layer", "quick_gelu", "per_mille")
    assert arch.text.rope_theta == 1e6 and arch.eos_token_id == () and arch.weights_dtype is None


def test_several_end_tokens_and_a_padding_token_are_kept():
    arch = ModelArch.from_dict(changed(HUB_25, eos_token_id=[151645, 151643], pad_token_id=151643))
    assert arch.eos_token_id == (151645, 151643) and arch.pad_token_id == 151643


def test_a_nested_file_wins_over_its_flat_copy_and_null_counts_as_left_out():
    nested = {"text_config": {"hidden_size": 2048, "sliding_window": None, "rms_norm_eps": None}}
    assert ModelArch.from_dict({**changed(HUB_25, hidden_size=1024), **nested}) == ModelArch.from_dict(HUB_25)
    moved = changed(HUB_25, tie_word_embeddings=None) | {"text_config": {"tie_word_embeddings": True}}
    assert ModelArch.from_dict(moved).text.tie_word_embeddings
    assert not ModelArch.from_dict(moved | {"tie_word_embeddings": False}).text.tie_word_embeddings


@pytest.mark.parametrize("config", [HUB_25, HUB_2], ids=["qwen2_5_vl", "qwen2_vl"])
def test_what_is_written_reads_back_the_same(config):
    arch = ModelArch.from_dict(config)
    assert arch.to_published_dict().items() >= config.items()
    invented = dataclasses.replace(arch, raw={})
    assert ModelArch.from_dict(invented.to_published_dict()) == arch
    assert invented.to_published_dict()["architectures"] == [FAMILIES[arch.family].architecture]


def test_the_dtype_is_set_wherever_the_file_names_it():
    old = ModelArch.from_dict(HUB_25).to_published_dict("float32")
    assert old["torch_dtype"] == "float32" and "dtype" not in old
    config = changed(HUB_25, torch_dtype=None, vision_config__dtype="bfloat16") | {"dtype": "bfloat16"}
    new = ModelArch.from_dict(config | {"text_config": {"dtype": "bfloat16"}}).to_published_dict("float16")
    assert new["dtype"] == new["text_config"]["dtype"] == new["vision_config"]["dtype"] == "float16"
    assert "torch_dtype" not in new


def test_writing_does_not_change_the_file_that_was_read():
    config = copy.deepcopy(HUB_25)
    arch = ModelArch.from_dict(config)
    arch.to_published_dict("float32")["vision_config"]["depth"] = 1
    assert config == HUB_25 and arch.raw == HUB_25


REFUSED = [
    ({"model_type": "llama"}, r"unsupported model type 'llama'.*'qwen2_vl', 'qwen2_5_vl'"),
    ({"model_type": None}, "model_type is missing"),
    ({"model_type": ["qwen2_vl"]}, "unsupported model type"),
    ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 23]}}, r"mrope_section is \[16, 24, 23\].* 64 = "),
    ({"rope_scaling": {"type": "mrope", "mrope_section": [32, 32]}}, "three numbers"),
    ({"rope_scaling": {"type": "yarn", "factor": 4, "mrope_section": [16, 24, 24]}}, "'yarn' is not supported"),
    ({"rope_scaling": None}, "mrope_section is missing"),
    ({"num_attention_heads": 15}, "hidden_size is 2048, it does not divide by num_attention_heads 15"),
    ({"num_key_value_heads": 3}, "num_attention_heads is 16, it does not divide by num_key_value_heads 3"),
    ({"head_dim": 64}, "head_dim is 64"),
    ({"use_sliding_window": True}, "use_sliding_window is true"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ({"vision_config__hidden_act": "quick_gelu"}, "vision_config: hidden_act is 'quick_gelu', only 'silu'"),
    ({"vision_config__window_size": 100}, "window_size is 100, a multiple of .* = 28"),
    ({"vision_config__fullatt_block_indexes": [7, 32]}, r"fullatt_block_indexes is \[7, 32\], there are 32 blocks"),
    ({"vision_config__num_heads": 12}, "num_heads is 12"),
    ({"vision_config__out_hidden_size": 1280}, "tokens of width 1280, the text model has hidden_size 2048"),
    ({"vision_config": [1]}, r"vision_config is \[1\], a JSON object"),
    ({"rope_scaling": "mrope"}, "rope_scaling is 'mrope', a JSON object"),
    ({"rope_parameters": 7}, "rope_parameters is 7, a JSON object"),
    ({"eos_token_id": "end"}, "eos_token_id is 'end'"),
    ({"hidden_size": "2048"}, "hidden_size is '2048', an integer"),
    ({"num_hidden_layers": True}, "num_hidden_layers is True"),
    ({"num_hidden_layers": 1000000}, "from 1 to 1000"),
    ({"vocab_size": 10**12}, "vocab_size is 1000000000000"),
    ({"vocab_size": None}, "vocab_size is missing"),
    ({"rms_norm_eps": 0}, "rms_norm_eps is 0, a positive number"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
    ({"image_token_id": 151936}, "image_token_id is 151936, vocab_size is 151936"),
    ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'"),
    ({"text_config": "flat"}, "text_config is 'flat'"),
    ({"vision_config__rope_parameters": {"rope_theta": 500.0}}, "rope_theta is 500.0, only 10000"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=[next(iter(fields)) for fields, _ in REFUSED])
def test_a_contradiction_is_refused_with_file_field_and_value(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        ModelArch.from_dict(changed(HUB_25, **fields), "model/config.json")
    assert "model/config.json" in str(caught.value)


def test_no_damaged_field_escapes_as_another_error():
    odd = [0, -1, 1.5, "x", [], {}, [None], {"a": 1}, True, 10**30, float("inf")]
    paths = [name for name in HUB_25] + [f"vision_config__{name}" for name in HUB_25["vision_config"]]
    for path in [*paths, "text_config", "pad_token_id", "dtype", "vision_config__rope_parameters"]:
        for value in odd:
            with contextlib.suppress(ValueError):
                ModelArch.from_dict(changed(HUB_25, **{path: value}))


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json: no such file"):
        ModelArch.from_pretrained(tmp_path)
    for text, reason in [('{"model_type": ', "not valid JSON"), ("[]", "JSON object"), ("\udc80", "not valid JSON")]:
        (tmp_path / "config.json").write_text(text, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(ValueError, match=reason) as caught:
            ModelArch.from_pretrained(tmp_path)
        assert str(tmp_path / "config.json") in str(caught.value)


def test_folder_and_file_read_alike(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(HUB_2))
    assert ModelArch.from_pretrained(tmp_path) == ModelArch.from_pretrained(tmp_path / "config.json")
