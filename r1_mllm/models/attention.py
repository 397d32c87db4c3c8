# SPDX-License-Identifier: Apache-2.0
"""Attention over packed tokens: one row, no padding, who sees whom given by `visible_until` or by segment lengths.

On a GPU the packed form goes straight to `flashmask_attention` and `flash_attn_unpadded`.  On a CPU (and where those
kernels are missing) the same structure is cut into dense blocks: per block of similar groups one causal product for
the prompts, and one in which every completion attends to its prompt and its own past with a single softmax.

Shape letters: T packed tokens, H query heads, K key/value heads, R = H / K, D head size, B groups of a block,
P prompt tokens (longest of the block), G completions (most of the block), C completion tokens (longest of the block).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle
from paddle.nn import functional as F

from . import kernels

MASKED = -1e9
"""Added to scores that must not count.  Finite: a row of -inf would make softmax NaN."""

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


@dataclass
class DenseBlock:
    """Index and mask tensors of one dense block, made once per pack and used by every layer."""

    num_groups: int
    shape: tuple[int, int, int]
    query_index: paddle.Tensor
    """[B*P + B*G*C] int64 rows of the pack: prompt queries, then completion queries; padding points at row 0."""
    prompt_mask: paddle.Tensor
    """[B*K, R*P, P] float."""
    key_index: paddle.Tensor | None
    """[B*G*(P+C)] int64: for each completion its prompt's rows, then its own; None without completions."""
    tail_mask: paddle.Tensor | None
    """[B*G*K, R*C, P+C] float."""


def _block_tables(spans: list[GroupSpan]):
    """Numpy side of a DenseBlock; also where each block query goes in the pack."""
    num_groups, (prompt, rows, tail) = len(spans), block_shape(spans)
    prompt_rows = np.zeros([num_groups, prompt], np.int64)
    prompt_real = np.zeros([num_groups, prompt], bool)
    tail_rows = np.zeros([num_groups, rows, tail], np.int64)
    tail_real = np.zeros([num_groups, rows, tail], bool)
    for i_group, span in enumerate(spans):
        size = span.prompt_end - span.start
        prompt_rows[i_group, :size] = np.arange(span.start, span.prompt_end)
        prompt_real[i_group, :size] = True
        for i_row, (start, end) in enumerate(span.completions):
            tail_rows[i_group, i_row, : end - start] = np.arange(start, end)
            tail_real[i_group, i_row, : end - start] = True
    return prompt_rows, prompt_real, tail_rows, tail_real


def _dense_block(spans: list[GroupSpan], num_heads: int, num_kv_heads: int, dtype: str):
    """Build a DenseBlock; also return where its queries stand ([queries] pack rows, [queries] bool real)."""
    prompt_rows, prompt_real, tail_rows, tail_real = _block_tables(spans)
    num_groups, (prompt, rows, tail) = len(spans), block_shape(spans)
    repeat = num_heads // num_kv_heads
    causal = np.tril(np.ones([prompt, prompt], bool))
    mask = np.where(causal, 0.0, MASKED).astype(np.float32)
    prompt_mask = np.broadcast_to(mask, [num_groups * num_kv_heads, repeat, prompt, prompt])
    key_index = tail_mask = None
    if rows:
        prefix = np.broadcast_to(prompt_rows[:, None], [num_groups, rows, prompt])
        key_index = np.concatenate([prefix, tail_rows], axis=2).reshape(-1)
        sees = np.zeros([num_groups, 1, 1, tail, prompt + tail], bool)
        sees[..., :prompt] = prompt_real[:, None, None, None, :]
        sees[..., prompt:] = np.tril(np.ones([tail, tail], bool))
        tail_mask = np.where(sees, 0.0, MASKED).astype(np.float32)[:, :, None]
        full = [num_groups, rows, num_kv_heads, repeat, tail, prompt + tail]
        tail_mask = np.broadcast_to(tail_mask, full).reshape([-1, repeat * tail, prompt + tail])
    queries = np.concatenate([prompt_rows.reshape(-1), tail_rows.reshape(-1)])
    real = np.concatenate([prompt_real.reshape(-1), tail_real.reshape(-1)])
    block = DenseBlock(
        num_groups,
        (prompt, rows, tail),
        paddle.to_tensor(queries),
        paddle.to_tensor(prompt_mask.reshape([-1, repeat * prompt, prompt])).astype(dtype),
        None if key_index is None else paddle.to_tensor(key_index),
        None if tail_mask is None else paddle.to_tensor(tail_mask).astype(dtype),
    )
    return block, queries, real


class TextLayout:
    """Who sees whom in one pack, in the form the chosen attention takes."""

    def __init__(self, visible_until: np.ndarray, num_heads: int, num_kv_heads: int, head_dim: int, flash: bool, dtype):
        """Args: visible_until: [T] int.  flash: hand it to FlashMask as it is; else prepare dense blocks."""
        self.num_heads, self.num_kv_heads, self.head_dim, self.flash = num_heads, num_kv_heads, head_dim, flash
        if flash:
            self.startend_row_indices = paddle.to_tensor(flashmask_columns(visible_until))
            return
        self.blocks, homes, reals = [], [], []
        for spans in blocks_of(group_spans(visible_until)):
            block, queries, real = _dense_block(spans, num_heads, num_kv_heads, dtype)
            self.blocks.append(block)
            homes.append(queries)
            reals.append(real)
        homes, reals = np.concatenate(homes), np.concatenate(reals)
        back = np.zeros([len(visible_until)], np.int64)
        back[homes[reals]] = np.flatnonzero(reals)
        self.identity = len(homes) == len(back) and bool((back == np.arange(len(back))).all())
        self.back = paddle.to_tensor(back)


def flashmask_columns(visible_until: np.ndarray) -> np.ndarray:
    """FlashMask's column form of a pack: [1, 1, T, 1] int32; key j is masked for the queries from entry j on."""
    return np.ascontiguousarray(visible_until, np.int32)[None, None, :, None]


def attend(qkv: paddle.Tensor, layout: TextLayout) -> paddle.Tensor:
    """Causal packed attention.

    Args:
        qkv: [T, (H + 2K) * D] queries, keys, values after rotary; for dense layouts the queries carry 1/sqrt(D).

    Returns:
        [T, H * D].
    """
    heads, kv_heads, head_dim = layout.num_heads, layout.num_kv_heads, layout.head_dim
    width, kv_width = heads * head_dim, kv_heads * head_dim
    if layout.flash:
        q, k, v = paddle.split(qkv, [width, kv_width, kv_width], axis=1)
        q = q.reshape([1, -1, heads, head_dim])
        k, v = (part.reshape([1, -1, kv_heads, head_dim]) for part in (k, v))
        out = F.flashmask_attention(q, k, v, startend_row_indices=layout.startend_row_indices, causal=True)
        return out.reshape([-1, width])
    q, kv = paddle.split(qkv, [width, 2 * kv_width], axis=1)
    outs = [_attend_block(q, kv, block, layout) for block in layout.blocks]
    out = outs[0] if len(outs) == 1 else paddle.concat(outs, axis=0)
    return out if layout.identity else paddle.gather(out, layout.back)


def _attend_block(q: paddle.Tensor, kv: paddle.Tensor, block: DenseBlock, layout: TextLayout) -> paddle.Tensor:
    """q [T, H*D], kv [T, 2*K*D] -> [B*P + B*G*C, H*D] in the block's own order."""
    kv_heads, head_dim = layout.num_kv_heads, layout.head_dim
    num_groups, (prompt, rows, tail) = block.num_groups, block.shape
    num_prompt = num_groups * prompt
    queries = paddle.gather(q, block.query_index)
    prompt_kv = paddle.gather(kv, block.query_index[:num_prompt])
    out = _dense(queries[:num_prompt], prompt_kv, block.prompt_mask, (num_groups, prompt, prompt), kv_heads, head_dim)
    if not rows:
        return out
    tail_kv = paddle.gather(kv, block.key_index)
    sizes = (num_groups * rows, tail, prompt + tail)
    tail_out = _dense(queries[num_prompt:], tail_kv, block.tail_mask, sizes, kv_heads, head_dim)
    return paddle.concat([out, tail_out], axis=0)


def _dense(q, kv, mask, sizes: tuple[int, int, int], kv_heads: int, head_dim: int) -> paddle.Tensor:
    """Attention in rectangles: sizes (B, Q, S); q [B*Q, H*D], kv [B*S, 2*K*D], mask [B*K, R*Q, S] -> [B*Q, H*D]."""
    batch, num_q, num_k = sizes
    repeat = q.shape[1] // (kv_heads * head_dim)
    q = q.reshape([batch, num_q, kv_heads, repeat, head_dim]).transpose([0, 2, 3, 1, 4])
    q = q.reshape([batch * kv_heads, repeat * num_q, head_dim])
    kv = kv.reshape([batch, num_k, 2, kv_heads, head_dim])
    k = kv[:, :, 0].transpose([0, 2, 3, 1]).reshape([batch * kv_heads, head_dim, num_k])
    v = kv[:, :, 1].transpose([0, 2, 1, 3]).reshape([batch * kv_heads, num_k, head_dim])
    weights = F.softmax(kernels.masked_scores(mask, q, k))
    out = paddle.bmm(weights, v).reshape([batch, kv_heads, repeat, num_q, head_dim])
    return out.transpose([0, 3, 1, 2, 4]).reshape([batch * num_q, kv_heads * repeat * head_dim])


@dataclass
class SegmentLayout:
    """Vision attention: tokens are reordered, then every run of `length` neighbours sees itself and nothing else."""

    order: paddle.Tensor | None
    """[N] int64: reordered token i is token order[i]; None when the order stays."""
    back: paddle.Tensor | None
    """[N] int64 inverse of order."""
    runs: list[tuple[int, int]]
    """(number of segments, tokens per segment), covering all N tokens in order."""
    flash: bool = False
    cu_seqlens: paddle.Tensor | None = None
    """[segments + 1] int32 borders, for flash attention."""


def segment_layout(lengths: np.ndarray, order: np.ndarray, flash: bool) -> SegmentLayout:
    """Build the layout of segments of the given lengths [S] over tokens taken in `order` [N]."""
    runs: list[tuple[int, int]] = []
    for length in lengths.tolist():
        if runs and runs[-1][1] == length:
            runs[-1] = (runs[-1][0] + 1, length)
        else:
            runs.append((1, length))
    stays = bool((order == np.arange(len(order))).all())
    back = np.argsort(order)
    borders = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return SegmentLayout(
        None if stays else paddle.to_tensor(order),
        None if stays else paddle.to_tensor(back),
        runs,
        flash,
        paddle.to_tensor(borders) if flash else None,
    )


def attend_segments(qkv: paddle.Tensor, layout: SegmentLayout, num_heads: int) -> paddle.Tensor:
    """Full attention within segments: qkv [N, 3*H*D] (dense layouts: queries carry 1/sqrt(D)) -> [N, H*D]."""
    if layout.order is not None:
        qkv = paddle.gather(qkv, layout.order)
    width = qkv.shape[1] // 3
    head_dim = width // num_heads
    if layout.flash:
        q, k, v = (part.reshape([-1, num_heads, head_dim]) for part in paddle.split(qkv, 3, axis=1))
        longest = max(length for _, length in layout.runs)
        borders = layout.cu_seqlens
        out, _ = F.flash_attention.flash_attn_unpadded(
            q, k, v, borders, borders, longest, longest, scale=head_dim**-0.5, causal=False
        )
        out = out.reshape([-1, width])
    else:
        sizes = [count * length for count, length in layout.runs]
        parts = [qkv] if len(sizes) == 1 else paddle.split(qkv, sizes, axis=0)
        outs = [_segment_run(part, run, num_heads) for part, run in zip(parts, layout.runs, strict=True)]
        out = outs[0] if len(outs) == 1 else paddle.concat(outs, axis=0)
    return out if layout.back is None else paddle.gather(out, layout.back)


def _segment_run(qkv: paddle.Tensor, run: tuple[int, int], num_heads: int) -> paddle.Tensor:
    count, length = run
    width = qkv.shape[1] // 3
    qkv = qkv.reshape([count, length, 3, num_heads, width // num_heads]).transpose([2, 0, 3, 1, 4])
    q, k, v = (qkv[i].reshape([count * num_heads, length, -1]) for i in range(3))
    weights = F.softmax(paddle.bmm(q, k.transpose([0, 2, 1])))
    out = paddle.bmm(weights, v).reshape([count, num_heads, length, -1])
    return out.transpose([0, 2, 1, 3]).reshape([count * length, width])


def flash_available(requested: str, dtype: str) -> bool:
    """Say whether the flash kernels serve `--attn_implementation requested` for this device and dtype.

    They need a GPU of compute capability 8.0 or newer and bfloat16 or float16; elsewhere plain operators are used.
    """
    if requested == "eager" or not paddle.is_compiled_with_cuda() or kernels.on_cpu():
        return False
    capability = paddle.device.cuda.get_device_capability()
    return capability[0] >= 8 and dtype in ("bfloat16", "float16")
