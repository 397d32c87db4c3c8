# SPDX-License-Identifier: Apache-2.0
"""The values that flow from a dataset row to a gradient, one per stage of a sample's life.

Shape letters: P prompt tokens, C completion tokens, T packed tokens, N patches before merging, M merged visual tokens,
I images (or videos), G completions of a group.  Arrays are numpy; `Example` and `View` hold plain Python values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2; the frame (px of the original image, px as seen, per mille) is part of the variable's name."""

BoxUnits = Literal["seen_px", "per_mille"]


@dataclass(frozen=True)
class Example:
    """One checked dataset row: what is asked, of which pictures, and the answer that counts as right."""

    task: str
    question: str
    answer: Any
    """The task's own type: `Box` in px of the original image for rec, int for counting, str for geometry and math."""
    images: tuple[str | bytes, ...] = ()
    """Paths (already joined with image_root) or encoded file contents."""
    form: str = "open"
    """judge, choice or open."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """The source row's other fields (id, normal_caption ...) and `where`, its "file:line"."""


@dataclass(frozen=True)
class View:
    """How one picture was shown to the model; takes boxes the model writes back to the original picture."""

    original_wh: tuple[int, int]
    """px of the file after EXIF rotation."""
    seen_wh: tuple[int, int]
    """px after resizing, multiples of patch_size * merge_size."""
    box_units: BoxUnits
    """The space the model family writes boxes in: px as seen (Qwen2.5-VL) or 0..1000 (Qwen2-VL)."""

    def to_original(self, box: Box) -> Box:
        """Convert a box in the model's units to px of the original picture (no rounding, no clipping)."""
        frame_w, frame_h = self.seen_wh if self.box_units == "seen_px" else (1000, 1000)
        scale_x, scale_y = self.original_wh[0] / frame_w, self.original_wh[1] / frame_h
        return box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y

    def from_original(self, box: Box) -> Box:
        """Convert a box in px of the original picture to the model's units (no rounding)."""
        frame_w, frame_h = self.seen_wh if self.box_units == "seen_px" else (1000, 1000)
        scale_x, scale_y = frame_w / self.original_wh[0], frame_h / self.original_wh[1]
        return box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y


@dataclass(frozen=True)
class Grade:
    """What a task says of one answer."""

    score: float
    """0..1 (soft IoU, Jaccard ...), -1 where math_verify_for_dapo finds no box; exactly 0.0 or 1.0 for tasks that know
    only right and wrong."""
    correct: bool
    """The evaluation's verdict (IoU over the threshold, equal number ...)."""
    decided_by: str
    """Which rule decided: "iou", "no_answer", "exact", "numeric", "math_verify", "timeout" ..."""
    extracted: Any = None
    """The value read from the completion (box in px of the original image, number, text) or None."""


@dataclass
class Prompt:
    """A question as the model reads it."""

    ids: np.ndarray
    """[P] int64, image placeholders expanded: as many placeholder ids as merged visual tokens."""
    positions: np.ndarray
    """[3, P] int64: time, height, width."""
    next_position: int
    """Position (all three axes) of the first completion token."""
    pixels: np.ndarray | None = None
    """[N, 1176] float32 normalised patches of all images in merge order; None without images."""
    grids: np.ndarray | None = None
    """[I, 3] int64 patches (t, h, w) per image before merging."""
    views: tuple[View, ...] = ()
    text: str = ""
    """The rendered chat text before placeholders are expanded; what `completions.jsonl` shows."""
    second_per_grid: np.ndarray | None = None
    """[I] float32 seconds per temporal step, for grids with t > 1 only."""
    opening: str = ""
    """What the text has written of the answer already: "<think>" under a template that opens the thinking."""
    answers: np.ndarray | None = None
    """[P] bool: earlier answers of a conversation, learnt like the completion; None without any."""


@dataclass
class Completion:
    """One sampled answer."""

    ids: np.ndarray
    """[C] int64, including the stop token when there is one."""
    logprobs: np.ndarray
    """[C] float32 nats under the distribution it was sampled from (after temperature, before top-k/top-p cuts)."""
    text: str
    """Decoded without special tokens, behind the prompt's `opening`: the whole answer as rewards and logs see it."""
    finished: bool
    """False: cut at max_completion_length."""


@dataclass
class Group:
    """A prompt with its G completions and what they earned."""

    example: Example
    prompt: Prompt
    completions: Sequence[Completion]
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    """Reward name -> [G] float64, unweighted; NaN where the reward does not apply."""
    details: dict[str, np.ndarray] = field(default_factory=dict)
    """Reward name/part -> [G] float64: what a user's reward is made of, for logs only."""
    grades: Sequence[Grade] = ()
    """The task's verdict per completion, kept for logs."""
    rewards: np.ndarray | None = None
    """[G] float64 weighted sum."""
    advantages: np.ndarray | None = None
    """[G] float64."""
    reading: Any = None
    """A models.reading.Kept: the sampler's pass over the prompt, for the update of the same weights to go on from."""


@dataclass
class PackedBatch:
    """Several groups in one row of T tokens; each prompt stands once before its completions.

    Token i may look at token j iff j <= i < visible_until[j].  A prompt's tokens are visible until the end of its
    group, a completion's until the end of that completion.
    """

    ids: np.ndarray
    """[T] int64."""
    positions: np.ndarray
    """[3, T] int64."""
    visible_until: np.ndarray
    """[T] int32."""
    row: np.ndarray
    """[T] int32: number of the completion a token belongs to, counted over the pack; -1 for prompt tokens."""
    num_rows: int
    mask: np.ndarray
    """[T] bool: completion tokens that enter the loss."""
    sampler_logp: np.ndarray
    """[T] float32 nats; 0 where row is -1."""
    advantages: np.ndarray
    """[T] float32: the completion's advantage on each of its tokens; 0 where row is -1."""
    ref_logp: np.ndarray | None = None
    """[T] float32 nats of the reference model; None when beta is 0."""
    pixels: np.ndarray | None = None
    """[N, 1176] float32 patches of all images of the pack, in order."""
    grids: np.ndarray | None = None
    """[I, 3] int64."""
    second_per_grid: np.ndarray | None = None
    """[I] float32 or None."""
    patch_rows: np.ndarray | None = None
    """[M] int64: where in the pack each merged visual token stands."""
    readings: Sequence[Any] = ()
    """The readings of the prompts of its groups, in order; empty unless all have one."""
    structures: dict[tuple, Any] = field(default_factory=dict, repr=False, compare=False)
    """What the models derive from the fields above (who sees whom, rotary tables), kept for the pack's next pass."""
