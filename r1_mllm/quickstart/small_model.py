# SPDX-License-Identifier: Apache-2.0
"""Make a small Qwen2.5-VL from nothing, in the very folder layout of a published checkpoint.

The network is the real one, only narrower; the vocabulary is a byte-level BPE trained on the task's own text, with
Qwen2's rule that digits stand alone (boxes are written digit by digit).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import paddle
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ..models.config import ModelArch
from ..models.qwen_vl import QwenVL

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Qwen2's splitting rule, as its published tokenizer.json states it
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MAX_MERGED_VOCABULARY = 600

EMBEDDING_STD = 0.3
ROPE_THETA = 10.0
"""Prompts are short and pictures 3 x 3 tokens: with the family's 1e6, the axis of the columns would hardly turn."""
HIDDEN, LAYERS, HEADS, KV_HEADS, INTERMEDIATE = 192, 4, 6, 2, 512
VISION_HIDDEN, VISION_DEPTH, VISION_HEADS, VISION_INTERMEDIATE = 128, 4, 4, 256


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Train a byte-level BPE on texts and add the family's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_MERGED_VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def published_config(vocab_size: int, ids: dict[str, int]) -> dict:
    """config.json in the layout of the hub's Qwen2.5-VL files."""
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": 4096,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-06,
        "rope_theta": ROPE_THETA,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": vocab_size,
        "vision_config": {
            "depth": VISION_DEPTH,
            "hidden_act": "silu",
            "hidden_size": VISION_HIDDEN,
            "intermediate_size": VISION_INTERMEDIATE,
            "num_heads": VISION_HEADS,
            "in_chans": 3,
            "out_hidden_size": HIDDEN,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1, 3],
            "tokens_per_second": 2,
        },
    }


def write_companions(folder: Path, tokenizer: Tokenizer) -> dict[str, int]:
    """Write tokenizer, chat template, picture settings and generation settings; return the special tokens' ids."""
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    tokenizer.save(str(folder / "tokenizer.json"))
    template = resources.files(__package__).joinpath("chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    settings = {
        "tokenizer_config.json": {
            "tokenizer_class": "Qwen2Tokenizer",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": 4096,
            "clean_up_tokenization_spaces": False,
        },
        "preprocessor_config.json": {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
            "min_pixels": 3136,
            "max_pixels": 1003520,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
        "generation_config.json": {
            "do_sample": True,
            "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
            "pad_token_id": ids["<|endoftext|>"],
        },
    }
    for name, values in settings.items():
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return ids


def build(folder: Path, texts: Iterable[str], seed: int) -> QwenVL:
    """Write a small model's folder, all but the weights, and return the network with random ones.

    Args:
        texts: prompts and answers of the task; the vocabulary is trained on them.
        seed: of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(texts)
    config = published_config(tokenizer.get_vocab_size(), write_companions(folder, tokenizer))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    paddle.seed(seed)
    model = QwenVL(ModelArch.from_dict(config, str(folder / "config.json")))
    _scale_to_width(model)
    return model


def _scale_to_width(model: QwenVL) -> None:
    """Draw weights of variance 1 / fan-in: the family's 0.02 suits widths of thousands and learns slowly here."""
    for name, weight in model.named_parameters():
        if "embed_tokens" in name:
            weight.set_value(paddle.randn(weight.shape) * EMBEDDING_STD)
        elif weight.ndim == 2:
            std = weight.shape[0] ** -0.5
            if name.endswith(("attn.o.weight", "mlp.down.weight", "attn.proj.weight")):  # they add to the residual
                std *= (2 * LAYERS) ** -0.5
            weight.set_value(paddle.randn(weight.shape) * std)
