# SPDX-License-Identifier: Apache-2.0
"""What a published config.json says about a network, read once into typed, checked values.  No Paddle.

The same model is described in four ways in the wild: flat as on the hub; flat with vision defaults left out
(transformers 4.49); flat plus a text_config copy (4.57); nested with rope_parameters (5.x).  All read the same here.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..records import BoxUnits
from .fields import MAX_VOCAB, MAX_WIDTH, Section

VisionNorm = Literal["layer", "rms"]
VisionMlp = Literal["quick_gelu", "swiglu"]


@dataclass(frozen=True)
class Family:
    """What the model type alone decides; sizes and windows come from config.json."""

    box_units: BoxUnits
    """The space the family was taught to write boxes in."""
    vision_norm: VisionNorm
    vision_mlp: VisionMlp
    architecture: str
    """Class name that published files carry under `architectures`."""
    vision_act: str
    """The only `vision_config.hidden_act` implemented."""
    vision_defaults: Mapping[str, Any]
    """Values of the vision fields that transformers 4.49 leaves out of the file."""


FAMILIES = {
    "qwen2_vl": Family(
        box_units="per_mille",
        vision_norm="layer",
        vision_mlp="quick_gelu",
        architecture="Qwen2VLForConditionalGeneration",
        vision_act="quick_gelu",
        vision_defaults={"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16, "mlp_ratio": 4},
    ),
    "qwen2_5_vl": Family(
        box_units="seen_px",
        vision_norm="rms",
        vision_mlp="swiglu",
        architecture="Qwen2_5_VLForConditionalGeneration",
        vision_act="silu",
        vision_defaults={
            "depth": 32,
            "hidden_size": 3584,
            "out_hidden_size": 3584,
            "intermediate_size": 3420,
            "num_heads": 16,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "tokens_per_second": 4,
        },
    ),
}

VISION_DEFAULTS = {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3, "in_chans": 3}
TEXT_DEFAULTS = {"rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "max_position_embeddings": 32768}
TOKEN_DEFAULTS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}
ROPE_TYPES = ("default", "mrope")
VISION_ROPE_THETA = 10000.0
MAX_LAYERS = 1000


@dataclass(frozen=True)
class VisionArch:
    """Sizes of the vision tower."""

    depth: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    out_hidden_size: int
    """Width after the merger; equals the text hidden size."""
    norm: VisionNorm
    mlp: VisionMlp
    in_channels: int = 3
    patch_size: int = 14
    """px"""
    merge_size: int = 2
    """merge_size x merge_size patches become one visual token."""
    temporal_patch_size: int = 2
    """Frames per patch; a still picture is repeated."""
    window_size: int = 0
    """px; 0 means that no block is windowed."""
    full_attention_blocks: tuple[int, ...] = ()
    """Blocks that see the whole picture; every block when window_size is 0."""
    tokens_per_second: float = 0
    """Temporal positions per second of video; 0 means that they count frames (qwen2_vl)."""
    norm_eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def patch_dim(self) -> int:
        """Numbers in one flattened patch (1176)."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True)
class TextArch:
    """Sizes of the decoder."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope_theta: float
    mrope_section: tuple[int, ...]
    """How many of the head_dim / 2 frequencies turn with time, height and width."""
    rms_norm_eps: float
    tie_word_embeddings: bool
    max_position_embeddings: int


@dataclass(frozen=True)
class ModelArch:
    """A whole network as config.json describes it."""

    family: str
    text: TextArch
    vision: VisionArch
    image_token_id: int
    video_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int
    eos_token_id: tuple[int, ...]
    """From config.json; generation_config.json may name more (the tokenizer's owner decides what stops)."""
    pad_token_id: int | None
    box_units: BoxUnits
    weights_dtype: str | None = None
    """`torch_dtype` / `dtype` of the file; None when it says nothing."""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The file itself, written back unchanged at export."""

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], where: str = "config.json") -> ModelArch:
        """Read a parsed config.json of any layout; ValueError names `where`, the field, its value and the cure."""
        family = _family(config, where)
        top = Section(config, TOKEN_DEFAULTS, where)
        nested, known = top.inner("text_config"), FAMILIES[family].vision_defaults
        text = Section({**config, **nested}, TEXT_DEFAULTS, where)
        vision = Section(top.inner("vision_config"), {**VISION_DEFAULTS, **known}, f"{where}: vision_config")
        arch = cls(
            family=family,
            text=_text_arch(text, _is_tied(config, nested, where)),
            vision=_vision_arch(vision, family),
            **{name: top.integer(name, 0, MAX_VOCAB) for name in TOKEN_DEFAULTS},
            eos_token_id=text.ids("eos_token_id"),
            pad_token_id=next(iter(text.ids("pad_token_id")), None),
            box_units=FAMILIES[family].box_units,
            weights_dtype=_weights_dtype(config, nested),
            raw=copy.deepcopy(dict(config)),
        )
        _check_whole(arch, where)
        return arch

    @classmethod
    def from_pretrained(cls, path: str | Path) -> ModelArch:
        """Read config.json of a model folder (or that file itself)."""
        file = Path(path)
        file = file if file.name == "config.json" else file / "config.json"
        if not file.is_file():
            raise ValueError(f"{file}: no such file; a model folder needs config.json beside its weights")
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}: not valid JSON ({error}); download it again") from error
        if not isinstance(config, dict):
            raise ValueError(f"{file}: holds {type(config).__name__}, a JSON object is needed; download it again")
        return cls.from_dict(config, str(file))

    def to_published_dict(self, dtype: str | None = None) -> dict[str, Any]:
        """Give config.json as it was read (hub layout if it never was), with the weights' dtype set where named."""
        config = copy.deepcopy(dict(self.raw)) or _hub_layout(self)
        dtype = dtype or self.weights_dtype
        if dtype is None:
            return config
        for section in (config, config.get("text_config"), config.get("vision_config")):
            for key in {"torch_dtype", "dtype"} & set(section or {}):
                section[key] = dtype
        if "dtype" not in config:
            config["torch_dtype"] = dtype
        return config


def _family(config: Mapping[str, Any], where: str) -> str:
    """Give the model type, or refuse it."""
    found = config.get("model_type")
    if found is None:
        raise ValueError(f"{where}: model_type is missing; one of {_listed(FAMILIES)} is needed")
    if not isinstance(found, str) or found not in FAMILIES:
        raise ValueError(f"{where}: unsupported model type {found!r}; supported: {_listed(FAMILIES)}")
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _is_tied(config: Mapping[str, Any], nested: Mapping[str, Any], where: str) -> bool:
    """Tell whether the output head is the embedding; the top level wins, 4.57 keeps `true` in text_config only."""
    found = config.get("tie_word_embeddings")
    found = nested.get("tie_word_embeddings", False) if found is None else found
    if not isinstance(found, bool):
        raise ValueError(f"{where}: tie_word_embeddings is {found!r}; write true or false")
    return found


def _weights_dtype(config: Mapping[str, Any], nested: Mapping[str, Any]) -> str | None:
    found = [section.get(key) for section in (config, nested) for key in ("dtype", "torch_dtype")]
    return next((str(name).removeprefix("torch.") for name in found if name), None)


def _text_arch(text: Section, tied: bool) -> TextArch:
    """Read the decoder's sizes, wherever the layout keeps its rotary settings."""
    _refuse_text_variants(text)
    hidden, heads = text.integer("hidden_size"), text.integer("num_attention_heads")
    kv_heads = text.integer("num_key_value_heads")
    if hidden % heads:
        raise text.wrong("hidden_size", hidden, f"it does not divide by num_attention_heads {heads}")
    if heads % kv_heads:
        raise text.wrong("num_attention_heads", heads, f"it does not divide by num_key_value_heads {kv_heads}")
    if text.fields.get("head_dim") not in (None, hidden // heads):
        raise text.wrong("head_dim", text.fields["head_dim"], f"hidden_size / num_attention_heads is {hidden // heads}")
    rope_theta, mrope_section = _rope(text, hidden // heads)
    return TextArch(
        vocab_size=text.integer("vocab_size", most=MAX_VOCAB),
        hidden_size=hidden,
        intermediate_size=text.integer("intermediate_size", most=MAX_WIDTH * 8),
        num_hidden_layers=text.integer("num_hidden_layers", most=MAX_LAYERS),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        rope_theta=rope_theta,
        mrope_section=mrope_section,
        rms_norm_eps=float(text.number("rms_norm_eps")),
        tie_word_embeddings=tied,
        max_position_embeddings=text.integer("max_position_embeddings", most=1 << 30),
    )


def _refuse_text_variants(text: Section) -> None:
    """Refuse settings that change the result and are not implemented."""
    if text.fields.get("use_sliding_window"):
        raise ValueError(
            f"{text.where}: use_sliding_window is true; sliding windows are not supported, set it to false "
            "if the model was trained without them (published Qwen2-VL and Qwen2.5-VL models were)"
        )
    if text.fields.get("hidden_act") not in (None, "silu"):
        raise text.wrong("hidden_act", text.fields["hidden_act"], "only 'silu' is supported")


def _rope(text: Section, head_dim: int) -> tuple[float, tuple[int, ...]]:
    """Read rope_theta and mrope_section: 5.x keeps both in rope_parameters, older files the second in rope_scaling."""
    rope = text.inner("rope_parameters") or text.inner("rope_scaling")
    rotary = Section(rope, {}, f"{text.where}: rope")
    for key in ("rope_type", "type"):
        if rope.get(key) not in (None, *ROPE_TYPES):
            raise ValueError(
                f"{text.where}: rope scaling {key} {rope[key]!r} is not supported, only {_listed(ROPE_TYPES)}; "
                "use the checkpoint without context extension"
            )
    section = rotary.integers("mrope_section")
    if len(section) != 3 or 2 * sum(section) != head_dim:
        wanted = (
            f"three numbers that add up to half the head size are needed, {head_dim / 2:g} = hidden_size "
            f"{text.integer('hidden_size')} / num_attention_heads {text.integer('num_attention_heads')} / 2"
        )
        raise rotary.wrong("mrope_section", list(section), wanted)
    holder = rotary if rope.get("rope_theta") is not None else text
    return float(holder.number("rope_theta")), section


def _vision_arch(vision: Section, family: str) -> VisionArch:
    """Read the vision tower's sizes; Qwen2-VL calls its width embed_dim and the merger's output hidden_size."""
    kind = FAMILIES[family]
    depth = vision.integer("depth", most=MAX_LAYERS)
    in_channels = "in_chans" if vision.fields.get("in_channels") is None else "in_channels"
    common = {
        "depth": depth,
        "num_heads": vision.integer("num_heads"),
        "in_channels": vision.integer(in_channels, most=64),
        "patch_size": vision.integer("patch_size", most=1024),
        "merge_size": vision.integer("spatial_merge_size", most=64),
        "temporal_patch_size": vision.integer("temporal_patch_size", most=64),
        "norm": kind.vision_norm,
        "mlp": kind.vision_mlp,
    }
    if family == "qwen2_vl":
        hidden = vision.integer("embed_dim")
        arch = VisionArch(
            hidden_size=hidden,
            intermediate_size=int(hidden * vision.number("mlp_ratio", most=MAX_WIDTH)),
            out_hidden_size=vision.integer("hidden_size"),
            full_attention_blocks=tuple(range(depth)),
            **common,
        )
    else:
        arch = VisionArch(
            hidden_size=vision.integer("hidden_size"),
            intermediate_size=vision.integer("intermediate_size", most=MAX_WIDTH * 8),
            out_hidden_size=vision.integer("out_hidden_size"),
            window_size=vision.integer("window_size", most=1 << 20),
            full_attention_blocks=vision.integers("fullatt_block_indexes"),
            tokens_per_second=vision.number("tokens_per_second"),
            **common,
        )
    _check_vision(arch, vision, kind)
    return arch


def _check_vision(arch: VisionArch, vision: Section, kind: Family) -> None:
    """Refuse sizes that contradict each other and settings that are not implemented."""
    act = vision.fields.get("hidden_act") or kind.vision_act
    if act != kind.vision_act:
        raise vision.wrong("hidden_act", act, f"only {kind.vision_act!r} is supported")
    theta = vision.inner("rope_parameters").get("rope_theta", VISION_ROPE_THETA)
    if theta != VISION_ROPE_THETA:
        raise vision.wrong("rope_parameters.rope_theta", theta, f"only {VISION_ROPE_THETA:g} is supported")
    if arch.hidden_size % arch.num_heads or arch.head_dim % 4:
        wanted = f"hidden size {arch.hidden_size} must divide by it into heads of a multiple of 4"
        raise vision.wrong("num_heads", arch.num_heads, wanted)
    if arch.window_size % (arch.patch_size * arch.merge_size):
        wanted = f"a multiple of patch_size x spatial_merge_size = {arch.patch_size * arch.merge_size} is needed"
        raise vision.wrong("window_size", arch.window_size, wanted)
    if any(index >= arch.depth for index in arch.full_attention_blocks):
        raise vision.wrong("fullatt_block_indexes", list(arch.full_attention_blocks), f"there are {arch.depth} blocks")


def _check_whole(arch: ModelArch, where: str) -> None:
    """Refuse a vision tower and a decoder that do not fit each other, and token ids outside the vocabulary."""
    if arch.vision.out_hidden_size != arch.text.hidden_size:
        raise ValueError(
            f"{where}: vision_config gives tokens of width {arch.vision.out_hidden_size}, the text model has "
            f"hidden_size {arch.text.hidden_size}; take config.json from the model's own repository"
        )
    for name in TOKEN_DEFAULTS:
        if getattr(arch, name) >= arch.text.vocab_size:
            raise ValueError(
                f"{where}: {name} is {getattr(arch, name)}, vocab_size is {arch.text.vocab_size}; "
                f"set {name} to the tokenizer's id"
            )


def _hub_layout(arch: ModelArch) -> dict[str, Any]:
    """Write an architecture that never had a config.json, in the layout of the hub."""
    text, vision, kind = arch.text, arch.vision, FAMILIES[arch.family]
    tower = {
        "depth": vision.depth,
        "num_heads": vision.num_heads,
        "in_chans": vision.in_channels,
        "patch_size": vision.patch_size,
        "spatial_patch_size": vision.patch_size,
        "spatial_merge_size": vision.merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "hidden_act": kind.vision_act,
    }
    if arch.family == "qwen2_vl":
        ratio = vision.intermediate_size / vision.hidden_size
        tower |= {"embed_dim": vision.hidden_size, "hidden_size": vision.out_hidden_size}
        tower |= {"mlp_ratio": int(ratio) if ratio.is_integer() else ratio}
    else:
        tower |= {"hidden_size": vision.hidden_size, "out_hidden_size": vision.out_hidden_size}
        tower |= {"intermediate_size": vision.intermediate_size, "window_size": vision.window_size}
        tower |= {"fullatt_block_indexes": list(vision.full_attention_blocks)}
        tower |= {"tokens_per_second": vision.tokens_per_second}
    return {
        "architectures": [kind.architecture],
        "model_type": arch.family,
        "hidden_act": "silu",
        **{name: value for name, value in asdict(text).items() if name not in ("head_dim", "mrope_section")},
        "rope_scaling": {"type": "mrope", "mrope_section": list(text.mrope_section)},
        "use_sliding_window": False,
        "eos_token_id": arch.eos_token_id[0] if len(arch.eos_token_id) == 1 else list(arch.eos_token_id),
        "pad_token_id": arch.pad_token_id,
        **{name: getattr(arch, name) for name in TOKEN_DEFAULTS},
        "vision_config": tower,
    }
