# SPDX-License-Identifier: Apache-2.0
"""How much of the devices' arithmetic a run uses: operations its models' passes need, over time and peak rate (MFU).

Counted per group from the architecture, 2 for a multiplication with its sum, products only: reading the prompt,
sampling each token, the reference's pass, the update's pass and its way back.  What is computed again (recomputation,
a prompt repeated in several packs) does not count, nor does what is not computed: a prompt or a completion
that the update takes over from the sampler counts once, but for the head.

Shape letters: P prompt tokens, n tokens of a completion.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import paddle

from ..config import GrpoConfig, SftConfig
from ..distributed import collectives
from ..models.config import ModelArch, TextArch
from ..models.operations import vision_operations
from ..models.qwen_vl import QwenVL
from ..records import Group, Prompt
from . import step_time

PEAK_TFLOPS = {
    "H100 PCIe": 756.0,
    "H200": 989.0,
    "H100": 989.0,
    "H800": 989.0,
    "A100": 312.0,
    "A800": 312.0,
    "H20": 148.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L20": 119.5,
    "L4": 121.0,
    "A30": 165.0,
    "A10": 125.0,
    "V100": 125.0,
    "T4": 65.0,
}
"""Word in a GPU's name -> dense 1e12 operations/s in bfloat16 (V100, T4: float16), of NVIDIA's data sheets."""


def known_peak(name: str) -> float | None:
    """Give the operations/s of a GPU that is known by its name, such as "NVIDIA A100-SXM4-80GB"; else None."""
    for word, tera in PEAK_TFLOPS.items():
        if re.search(rf"\b{word}\b", name):
            return tera * 1e12
    return None


def device_peak(config: GrpoConfig | SftConfig, model: QwenVL) -> float | None:
    """Operations/s of this process's device: as --peak_tflops says, else by its name for two-byte weights on a GPU."""
    if config.training.peak_tflops is not None:
        return config.training.peak_tflops * 1e12
    if paddle.device.get_device() == "cpu" or model.dtype == "float32":
        return None
    return known_peak(paddle.device.cuda.get_device_name())


@dataclass(frozen=True)
class Meter:
    """Counts what a run's passes need and relates it to time."""

    arch: ModelArch
    text_back: int
    """Operations of the way back through the decoder, as a multiple of those forward: 2, or 1 where its weights need no
    gradients."""
    vision_back: int
    """The same for the vision tower: 2, 1, or 0 where nothing goes back into it."""
    has_reference: bool
    peak: float | None
    """Operations/s of a device; None: not known."""
    world: int

    @classmethod
    def of(cls, model: QwenVL, config: GrpoConfig | SftConfig, has_reference: bool, world: int) -> Meter:
        """Take from the settings what learns."""
        frozen_text = config.lora.use_peft or config.model.freeze_language
        vision_back = 0 if model.freeze_vision else 1 if config.lora.use_peft else 2
        peak = device_peak(config, model)
        return cls(model.arch, 1 if frozen_text else 2, vision_back, has_reference, peak, world)

    def sampling(self, groups: Iterable[Group]) -> int:
        """Operations of reading each prompt once and sampling its completions; their last tokens are never read."""
        total, text = 0, self.arch.text
        for group in groups:
            prompt = len(group.prompt.ids)
            total += self._vision(group.prompt) + step_time.prompt_forward(text, 1, prompt)
            total += sum(_tokens(text, prompt, n - 1, n - 1) for n in _lengths(group))
        return total

    def scoring(self, groups: Iterable[Group]) -> int:
        """Operations of the reference's pass; 0 without one."""
        if not self.has_reference:
            return 0
        return sum(self._whole(group) for group in groups)

    def update(self, groups: Iterable[Group]) -> int:
        """Operations of the policy's pass and its way back; to be asked before the update, which uses readings up."""
        total = 0
        for group in groups:
            prompt, completions = self._prompt(group.prompt), self._completions(group)
            vision, reading = self._vision(group.prompt), group.reading
            total += 0 if reading is not None and reading.alive else prompt + vision
            total += self._heads(group) if reading is not None and reading.traced else completions
            total += self.text_back * (prompt + completions) + self.vision_back * vision
        return total

    def rates(self, step: int, update: int, seconds: Mapping[str, float], total: float) -> dict[str, float]:
        """Relate operations to time, all ranks together.

        Args:
            step: operations of this rank's whole step.  update: those of the update among them.
            seconds: of the phases.  total: of the step.

        Returns:
            perf/tflops of a device; where its peak is known, perf/mfu and perf/mfu_actor (the update alone, EasyR1's
            name): shares of it.
        """
        summed = collectives.sum_scalars({"step": float(step), "update": float(update)})
        rate = summed["step"] / (total * self.world)
        if self.peak is None:
            return {"perf/tflops": rate / 1e12}
        actor = summed["update"] / (seconds["time/update"] * self.world)
        return {"perf/tflops": rate / 1e12, "perf/mfu": rate / self.peak, "perf/mfu_actor": actor / self.peak}

    def _prompt(self, prompt: Prompt) -> int:
        """Forward through the decoder, and the head where earlier answers are learnt."""
        scored = 0 if prompt.answers is None else int(prompt.answers.sum())
        return _tokens(self.arch.text, 0, len(prompt.ids), scored)

    def _whole(self, group: Group) -> int:
        return self._prompt(group.prompt) + self._completions(group) + self._vision(group.prompt)

    def _completions(self, group: Group) -> int:
        return sum(_tokens(self.arch.text, len(group.prompt.ids), n, n) for n in _lengths(group))

    def _heads(self, group: Group) -> int:
        return sum(_tokens(self.arch.text, 0, 0, n) for n in _lengths(group))

    def _vision(self, prompt: Prompt) -> int:
        return 0 if prompt.grids is None else vision_operations(self.arch.vision, prompt.grids)


def _lengths(group: Group) -> Sequence[int]:
    return [len(completion.ids) for completion in group.completions]


def _tokens(text: TextArch, before: int, num: int, scored: int) -> int:
    """Operations of `num` tokens that see `before` others and those of their own before them, `scored` by the head."""
    pairs = num * before + num * (num + 1) // 2
    heads = text.num_attention_heads * text.head_dim
    inside = 2 * num * step_time.decoder_weights(text) + 4 * text.num_hidden_layers * pairs * heads
    return inside + 2 * scored * text.vocab_size * text.hidden_size
