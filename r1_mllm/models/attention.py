# SPDX-License-Identifier: Apache-2.0
"""Attention over packed tokens: one row, no padding, who sees whom given by `visible_until` or by segment lengths.

On a GPU the packed form goes straight to `flashmask_attention` and `flash_attn_unpadded`.  On a CPU (and where those
kernels are missing) the same structure is cut into dense rectangles: per block of similar groups one for the prompts
among themselves, and one in which every completion attends to its prompt and its own past with a single softmax.

Shape letters: T packed tokens, N patches, H query heads, K key/value heads, R = H / K, D head size, P prompt tokens,
G completions and C completion tokens of a group (of a block: the most of any of its groups), B batches of a rectangle.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import paddle
from paddle.nn import functional as F

from . import kernels, tiled_attention
from .dense_attention import MASKED, DenseLayout, Rectangle
from .tiled_attention import Part, TiledLayout

MIN_STRETCH, MAX_STRETCHES = 32, 8
"""Queries of a causal rectangle are cut into at most so many stretches of at least so many tokens."""

PADDING_LIMIT = 1.25
"""Groups share a dense block while padding makes it at most this much larger than their own scores."""


@dataclass(frozen=True)
class GroupSpan:
    """Where one group stands in a pack: prompt start..prompt_end, then its completions up to end."""

    start: int
    prompt_end: int
    end: int
    completions: tuple[tuple[int, int], ...]
    """(start, end) of each completion."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """P, G, C of this group alone."""
        longest = max((end - start for start, end in self.completions), default=0)
        return self.prompt_end - self.start, len(self.completions), longest


def group_spans(visible_until: np.ndarray) -> list[GroupSpan]:
    """Read the groups of a pack out of visible_until [T] int.

    A group with a single completion comes back as one prompt without completions: its attention is plainly causal.
    """
    spans, start = [], 0
    while start < len(visible_until):
        end = int(visible_until[start])
        differs = np.flatnonzero(visible_until[start:end] != end)
        prompt_end = start + int(differs[0]) if len(differs) else end
        completions, at = [], prompt_end
        while at < end:
            completions.append((at, int(visible_until[at])))
            at = int(visible_until[at])
        spans.append(GroupSpan(start, prompt_end, end, tuple(completions)))
        start = end
    return spans


def block_shape(spans: list[GroupSpan]) -> tuple[int, int, int]:
    """P, G, C of a block that holds all of spans."""
    return tuple(max(sizes) for sizes in zip(*(span.shape for span in spans), strict=True))


def _num_scores(num_groups: int, shape: tuple[int, int, int]) -> int:
    prompt, rows, tail = shape
    return num_groups * (prompt * prompt + rows * tail * (prompt + tail))


def blocks_of(spans: list[GroupSpan]) -> list[list[GroupSpan]]:
    """Put groups of similar size into one dense block each, so that padding stays below PADDING_LIMIT."""
    blocks: list[list[GroupSpan]] = []
    for span in sorted(spans, key=lambda span: span.shape):
        grown = [*blocks[-1], span] if blocks else []
        own = sum(_num_scores(1, member.shape) for member in grown)
        if grown and _num_scores(len(grown), block_shape(grown)) <= PADDING_LIMIT * own:
            blocks[-1] = grown
        else:
            blocks.append([span])
    return blocks


def _padded(spans: Sequence[tuple[int, int]], length: int) -> np.ndarray:
    """Token numbers of spans (start, end), one per row, padded with -1: [rows, length]."""
    tokens = np.full([len(spans), length], -1, np.int64)
    for line, (start, end) in zip(tokens, spans, strict=True):
        line[: end - start] = np.arange(start, end)
    return tokens


def _head_rows(tokens: np.ndarray, first_head: int, num_heads: int, heads_per_token: int) -> np.ndarray:
    """Rows of [T * heads_per_token, D] for tokens [B, N] (-1: padding, row 0) and a run of heads: [B, heads, N]."""
    heads = np.arange(first_head, first_head + num_heads)[None, :, None]
    return np.where(tokens[:, None] < 0, 0, tokens[:, None] * heads_per_token + heads)


class _HeadPlan:
    """Where the heads of a fused row stand."""

    def __init__(self, num_heads: int, num_kv_heads: int):
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.all_heads = num_heads + 2 * num_kv_heads

    def rectangle(self, queries: np.ndarray, keys: np.ndarray, mask: np.ndarray | None) -> Rectangle:
        """Let tokens queries [B, Q] look at tokens keys [B, S] under mask [B or 1, Q, S].

        A key head's R query heads share its rectangle: B * K batches of R * Q queries.
        """
        repeat = self.num_heads // self.num_kv_heads
        shape = [len(queries) * self.num_kv_heads, -1]
        home = _head_rows(queries, 0, self.num_heads, self.num_heads)
        home = np.where(queries[:, None] < 0, -1, home)
        if mask is not None:
            batch, num_q, num_k = len(queries), queries.shape[1], keys.shape[1]
            full = [batch, self.num_kv_heads, repeat, num_q, num_k]
            mask = np.broadcast_to(mask[:, None, None], full).reshape([-1, repeat * num_q, num_k])
        return Rectangle(
            _head_rows(queries, 0, self.num_heads, self.all_heads).reshape(shape),
            home.reshape(shape),
            _head_rows(keys, self.num_heads, self.num_kv_heads, self.all_heads).reshape(shape),
            _head_rows(keys, self.num_heads + self.num_kv_heads, self.num_kv_heads, self.all_heads).reshape(shape),
            mask,
        )


def _causal(num_q: int, num_k: int) -> np.ndarray:
    """[1, Q, S] float32 mask: the last Q of S tokens look at what stands before them and at themselves."""
    return np.where(np.tril(np.ones([num_q, num_k], bool), num_k - num_q), 0.0, MASKED).astype(np.float32)[None]


def _causal_rectangles(plan: _HeadPlan, own: np.ndarray, before: np.ndarray) -> Iterator[Rectangle]:
    """Let tokens own [B, Q] look at tokens before [B, S] (-1: padding) and at their own past.

    Queries are taken in stretches, each with the keys up to its end, and of the rows that reach it alone: neither half
    of a causal square nor the rest of a short row need be computed.
    """
    num_before, length = before.shape[1], own.shape[1]
    stretch = max(MIN_STRETCH, -(-length // MAX_STRETCHES))
    for start in range(0, length, stretch):
        reached = own[:, start] >= 0
        rows, past = own[reached], before[reached]
        end = min(start + stretch, int((rows >= 0).sum(axis=1).max()))
        keys = np.concatenate([past, rows[:, :end]], axis=1)
        mask = _causal(end - start, num_before + end)
        if (past < 0).any():
            hidden = np.concatenate([past < 0, np.zeros([len(rows), end], bool)], axis=1)
            mask = np.where(hidden[:, None], np.float32(MASKED), mask)
        yield plan.rectangle(rows[:, start:end], keys, mask)


def _block_rectangles(spans: list[GroupSpan], plan: _HeadPlan) -> list[Rectangle]:
    """The prompts of a block among themselves, and its completions looking at prompt and own past."""
    prompt, rows, tail = block_shape(spans)
    prompts = _padded([(span.start, span.prompt_end) for span in spans], prompt)
    rectangles = list(_causal_rectangles(plan, prompts, prompts[:, :0]))
    if rows:
        own = _padded([part for span in spans for part in span.completions], tail)
        which = np.repeat(np.arange(len(spans)), [len(span.completions) for span in spans])
        rectangles += _causal_rectangles(plan, own, prompts[which])
    return rectangles


def _parts(span: GroupSpan) -> list[Part]:
    """A group's prompt, then its completions, by places within the group."""
    prompt = span.prompt_end - span.start
    places = [(start - span.start, end - span.start) for start, end in span.completions]
    return [Part(0, prompt, 0, True), *(Part(begin, end, prompt, True) for begin, end in places)]


class TextLayout:
    """Who sees whom in one pack, in the form the chosen attention takes."""

    def __init__(self, visible_until: np.ndarray, num_heads: int, num_kv_heads: int, head_dim: int, flash: bool, dtype):
        """Args: visible_until: [T] int.  flash: hand it to FlashMask as it is; else prepare dense rectangles."""
        self.num_heads, self.num_kv_heads, self.head_dim, self.flash = num_heads, num_kv_heads, head_dim, flash
        if flash:
            self.startend_row_indices = paddle.to_tensor(flashmask_columns(visible_until))
            return
        spans = group_spans(visible_until)
        if tiled_attention.serves(head_dim, dtype):
            families = [(np.arange(span.start, span.end), _parts(span)) for span in spans]
            self.plain = TiledLayout(families, num_heads, num_kv_heads, head_dim)
            return
        plan = _HeadPlan(num_heads, num_kv_heads)
        blocks = blocks_of(spans)
        rectangles = [rectangle for spans in blocks for rectangle in _block_rectangles(spans, plan)]
        self.plain = DenseLayout(rectangles, len(visible_until), num_heads, head_dim, dtype)


def next_tokens(before: int, num_tokens: int, num_heads: int, num_kv_heads: int, head_dim: int, dtype) -> DenseLayout:
    """One prompt's next tokens, behind `before` that they also see and that have no row of the output."""
    tokens = np.arange(before + num_tokens)[None]
    plan = _HeadPlan(num_heads, num_kv_heads)
    rectangles = list(_causal_rectangles(plan, tokens[:, before:], tokens[:, :before]))
    for rectangle in rectangles:
        rectangle.home -= before * num_heads
    return DenseLayout(rectangles, num_tokens, num_heads, head_dim, dtype)


@dataclass(frozen=True)
class GroupLengths:
    """How many tokens a group has: its prompt, then each of its completions."""

    prompt: int
    completions: Sequence[int]


def group_lengths(row: np.ndarray) -> list[GroupLengths]:
    """Read the groups of a pack out of row [T] as in PackedBatch."""
    starts = np.flatnonzero((row < 0) & (np.concatenate([[0], row[:-1]]) >= 0))
    found = []
    for start, end in zip(starts, [*starts[1:], len(row)], strict=True):
        lengths = np.unique(row[start:end], return_counts=True)[1].tolist()  # the prompt's -1 comes first
        found.append(GroupLengths(lengths[0], lengths[1:]))
    return found


def after_prompts(
    groups: Sequence[GroupLengths], places: np.ndarray, num_heads: int, num_kv_heads: int, head_dim: int
) -> TiledLayout:
    """The completions of groups behind all prompts; places [tokens]: where among completions each token stands."""
    num_prompt = sum(group.prompt for group in groups)
    families, prompts, taken = [], 0, 0
    for group in groups:
        total = sum(group.completions)
        own = num_prompt + places[taken : taken + total]
        tokens = np.concatenate([np.arange(prompts, prompts + group.prompt), own])
        borders = np.cumsum([group.prompt, *group.completions]).tolist()
        parts = [Part(a, b, group.prompt, True) for a, b in itertools.pairwise(borders) if b > a]
        families.append((tokens, parts))
        prompts, taken = prompts + group.prompt, taken + total
    return TiledLayout(families, num_heads, num_kv_heads, head_dim, skip=num_prompt)


def behind(kv: paddle.Tensor, qkv: paddle.Tensor) -> paddle.Tensor:
    """Put keys and values [P, 2*K*D], with queries of 0, before fused rows qkv [T, A*D]."""
    no_queries = paddle.zeros([kv.shape[0], qkv.shape[1] - kv.shape[1]], kv.dtype)
    return paddle.concat([paddle.concat([no_queries, kv], axis=1), qkv])


class ContinuedLayout:
    """Tokens that also see what was read before them.

    Serves one pass: layers take their earlier keys and values in order.
    """

    def __init__(self, past: Sequence[paddle.Tensor], plain: DenseLayout | TiledLayout, num_heads: int, head_dim: int):
        """Args: past: per layer keys and values [P, 2*K*D], or none.  plain: of P tokens without, T with output."""
        self.num_heads, self.head_dim, self.past, self.plain = num_heads, head_dim, iter(past), plain

    def attend(self, qkv: paddle.Tensor) -> paddle.Tensor:
        """qkv [T, (H + 2K) * D] of the tokens, queries carrying 1/sqrt(D) -> [T, H * D]."""
        kv = next(self.past, None)
        return self.plain.attend(qkv if kv is None else behind(kv, qkv))


def flashmask_columns(visible_until: np.ndarray) -> np.ndarray:
    """FlashMask's column form of a pack: [1, 1, T, 1] int32; key j is masked for the queries from entry j on."""
    return np.ascontiguousarray(visible_until, np.int32)[None, None, :, None]


def attend(qkv: paddle.Tensor, layout: TextLayout | ContinuedLayout) -> paddle.Tensor:
    """Causal packed attention.

    Args:
        qkv: [T, (H + 2K) * D] queries, keys, values after rotary; for dense layouts the queries carry 1/sqrt(D).

    Returns:
        [T, H * D].
    """
    if isinstance(layout, ContinuedLayout):
        return layout.attend(qkv)
    if layout.flash:
        heads, kv_heads, head_dim = layout.num_heads, layout.num_kv_heads, layout.head_dim
        width, kv_width = heads * head_dim, kv_heads * head_dim
        q, k, v = paddle.split(qkv, [width, kv_width, kv_width], axis=1)
        q = q.reshape([1, -1, heads, head_dim])
        k, v = (part.reshape([1, -1, kv_heads, head_dim]) for part in (k, v))
        out = F.flashmask_attention(q, k, v, startend_row_indices=layout.startend_row_indices, causal=True)
        return out.reshape([-1, width])
    return layout.plain.attend(qkv)


class SegmentLayout:
    """Vision attention: tokens taken in an order of its own, cut into segments that see themselves and nothing else."""

    def __init__(self, lengths: np.ndarray, order: np.ndarray, num_heads: int, head_dim: int, flash: bool, dtype: str):
        """Args: lengths: [S] tokens per segment.  order: [N] token numbers, segment after segment."""
        self.num_heads, self.flash = num_heads, flash
        if flash:
            borders = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            self.cu_seqlens, self.longest = paddle.to_tensor(borders), int(lengths.max())
            self.order, self.back = paddle.to_tensor(order), paddle.to_tensor(np.argsort(order))
            return
        starts = np.cumsum(lengths) - lengths
        if tiled_attention.serves(head_dim, dtype):
            segments = [order[start : start + n] for start, n in zip(starts, lengths, strict=True)]
            families = [(tokens, [Part(0, len(tokens), len(tokens), False)]) for tokens in segments]
            self.plain = TiledLayout(families, num_heads, num_heads, head_dim)
            return
        plan = _HeadPlan(num_heads, num_heads)
        rectangles = []
        for length in np.unique(lengths).tolist():
            tokens = order[starts[lengths == length][:, None] + np.arange(length)]
            rectangles.append(plan.rectangle(tokens, tokens, None))
        self.plain = DenseLayout(rectangles, len(order), num_heads, head_dim, dtype)


def attend_segments(qkv: paddle.Tensor, layout: SegmentLayout) -> paddle.Tensor:
    """Full attention within segments: qkv [N, 3*H*D] (dense layouts: queries carry 1/sqrt(D)) -> [N, H*D]."""
    if not layout.flash:
        return layout.plain.attend(qkv)
    width = qkv.shape[1] // 3
    parts = paddle.split(paddle.gather(qkv, layout.order), 3, axis=1)
    q, k, v = (part.reshape([-1, layout.num_heads, width // layout.num_heads]) for part in parts)
    borders, longest = layout.cu_seqlens, layout.longest
    out, _ = F.flash_attention.flash_attn_unpadded(
        q, k, v, borders, borders, longest, longest, scale=q.shape[2] ** -0.5, causal=False
    )
    return paddle.gather(out.reshape([-1, width]), layout.back)


def flash_available(requested: str, dtype: str) -> bool:
    """Say whether the flash kernels serve `--attn_implementation requested` for this device and dtype.

    They need a GPU of compute capability 8.0 or newer and bfloat16 or float16; elsewhere plain operators are used.
    """
    if requested == "eager" or not paddle.is_compiled_with_cuda() or kernels.on_cpu():
        return False
    capability = paddle.device.cuda.get_device_capability()
    return capability[0] >= 8 and dtype in ("bfloat16", "float16")
