# SPDX-License-Identifier: Apache-2.0
"""Every way of writing a config.json reads as the values its case names."""

import json

from r1_mllm.models.config import ModelArch

TEXT = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_theta",
    "tie_word_embeddings",
)
TOKENS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


def seen(arch: ModelArch) -> dict:
    """Give an architecture in the words of the golden cases, as far as both know them."""
    vision = {
        "depth": arch.vision.depth,
        "num_heads": arch.vision.num_heads,
        "patch_size": arch.vision.patch_size,
        "temporal_patch_size": arch.vision.temporal_patch_size,
        "spatial_merge_size": arch.vision.merge_size,
        "in_channels": arch.vision.in_channels,
        "hidden_act": {"swiglu": "silu", "quick_gelu": "quick_gelu"}[arch.vision.mlp],
    }
    if arch.family == "qwen2_vl":
        ratio = arch.vision.intermediate_size / arch.vision.hidden_size
        out = {"out_hidden_size (called hidden_size in this family)": arch.vision.out_hidden_size}
        vision |= {"embed_dim": arch.vision.hidden_size, "mlp_ratio": ratio, **out}
    else:
        vision |= {"hidden_size": arch.vision.hidden_size, "intermediate_size": arch.vision.intermediate_size}
        vision |= {"out_hidden_size": arch.vision.out_hidden_size, "window_size": arch.vision.window_size}
        vision |= {"fullatt_block_indexes": list(arch.vision.full_attention_blocks)}
        vision |= {"tokens_per_second": arch.vision.tokens_per_second}
    return {
        "model_type": arch.family,
        **{name: getattr(arch.text, name) for name in TEXT},
        **{name: getattr(arch, name) for name in TOKENS},
        "mrope_section": list(arch.text.mrope_section),
        "eos_token_id": arch.eos_token_id[0],
        "weights_dtype": arch.weights_dtype,
        "sliding_window_active": False,
        "vision": vision,
    }


def test_every_layout_reads_as_its_case_says(config_layouts_case):
    files = json.loads((config_layouts_case / "case.json").read_text())["files"]
    assert files
    for entry in files:
        arch = ModelArch.from_dict(json.loads((config_layouts_case / entry["file"]).read_text()), entry["file"])
        expected = {name: value for name, value in entry["expected"].items() if name != "bos_token_id"}
        assert seen(arch) == expected, entry["file"]
        assert ModelArch.from_dict(arch.to_published_dict(), entry["file"]) == arch
