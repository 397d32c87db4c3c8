# SPDX-License-Identifier: Apache-2.0
"""Reading prompts before their completions are sampled: in passes side by side, a long prompt in pieces.

Shape letters: T packed prompt tokens, C hidden size, K key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle

from ..models import team, threads
from ..models.attention import ContinuedLayout, next_tokens
from ..models.qwen_vl import run_block
from ..models.reading import Kept, Reading, ReadPrompt
from ..records import Prompt
from .cache import Prefill
from .decoder import Decoder


def read(
    decoder: Decoder, prompts: Sequence[Prompt], most: int, keep: list[Kept | None] | None = None
) -> tuple[Prefill, paddle.Tensor]:
    """Read prompts in passes of at most `most` tokens; several passes run side by side where threads allow.

    Args:
        keep: takes an entry per prompt, so that an update need not read it again; None where it was read in pieces.

    Returns:
        what the cache needs, and the logits [prompts, V] of the first completion token.
    """
    if keep is not None and max(len(prompt.ids) for prompt in prompts) <= most:
        return _read_and_keep(decoder, prompts, most, keep)
    if keep is not None:
        keep.extend([None] * len(prompts))
    visual = decoder.encode_images(prompts)
    lengths = [len(prompt.ids) for prompt in prompts]
    passes = _passes_side_by_side(lengths, most)

    def run(members: Sequence[int]) -> tuple[Prefill, paddle.Tensor]:
        if lengths[members[0]] > most:
            return _in_pieces(decoder, prompts[members[0]], visual[members[0]], most)
        return decoder.prefill([prompts[i] for i in members], [visual[i] for i in members])

    parts, logits = zip(*threads.run(run, passes), strict=True)
    return _joined(parts), logits[0] if len(logits) == 1 else paddle.concat(logits)


def _read_and_keep(
    decoder: Decoder, prompts: Sequence[Prompt], most: int, keep: list[Kept | None]
) -> tuple[Prefill, paddle.Tensor]:
    """As `read`, with the graphs; each pass with its pictures on a model of the team, whose thread goes back later."""
    passes = _passes_side_by_side([len(prompt.ids) for prompt in prompts], most)
    models = team.members(decoder.model, threads.lanes(len(passes)))

    def run(number: int) -> tuple[Prefill, paddle.Tensor, Reading]:
        member, own = models[number % len(models)], [prompts[i] for i in passes[number]]
        reader = Decoder(member, decoder.cache_dtype)
        with paddle.enable_grad():
            found, last = reader.states(own, reader.encode_images(own))
            ends = found.starts + found.lengths
            kept = [
                ReadPrompt([kv[start:end] for kv in found.kv], last[i : i + 1])
                for i, (start, end) in enumerate(zip(found.starts.tolist(), ends.tolist(), strict=True))
            ]
        found.kv = [kv.detach() for kv in found.kv]
        return found, last.detach(), Reading(member, kept)

    parts, last, readings = zip(*threads.run(run, range(len(passes))), strict=True)
    keep.extend(Kept(reading, i) for reading in readings for i in range(len(reading.prompts)))
    return _joined(parts), decoder.logits(paddle.concat(last))


def _passes_side_by_side(lengths: Sequence[int], most: int) -> list[list[int]]:
    return passes_of(lengths, min(most, -(-sum(lengths) // threads.count())))


def passes_of(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Share prompts, in order, out to passes of at most `limit` tokens; a longer prompt has one to itself."""
    passes: list[list[int]] = [[]]
    tokens = 0
    for i, length in enumerate(lengths):
        if passes[-1] and tokens + length > limit:
            passes.append([])
            tokens = 0
        passes[-1].append(i)
        tokens += length
    return passes


def _joined(parts: Sequence[Prefill]) -> Prefill:
    first = parts[0]
    for part in parts[1:]:
        first.starts = np.concatenate([first.starts, part.starts + first.kv[0].shape[0]])
        first.lengths = np.concatenate([first.lengths, part.lengths])
        first.kv = [paddle.concat(pair) for pair in zip(first.kv, part.kv, strict=True)]
    return first


def _in_pieces(
    decoder: Decoder, prompt: Prompt, visual: paddle.Tensor | None, most: int
) -> tuple[Prefill, paddle.Tensor]:
    """Read one prompt piece by piece; each sees the keys and values of those before it."""
    model, text = decoder.model, decoder.model.text
    rows = np.flatnonzero(np.isin(prompt.ids, [model.arch.image_token_id, model.arch.video_token_id]))
    x = model.embed(prompt.ids, rows, visual)
    kept: list[paddle.Tensor] = []
    for start in range(0, len(prompt.ids), most):
        end = min(start + most, len(prompt.ids))
        tables = text.tables(prompt.positions[:, start:end])
        heads = decoder.arch.num_attention_heads, decoder.arch.num_key_value_heads
        plain = next_tokens(start, end - start, *heads, decoder.arch.head_dim, model.dtype)
        layout = ContinuedLayout(kept, plain, heads[0], decoder.arch.head_dim)
        fresh: list[paddle.Tensor] = []
        last = text(x[start:end], (tables, layout), run_block, fresh, np.array([end - start - 1]))
        kept = [paddle.concat(pair) for pair in zip(kept, fresh, strict=True)] if kept else fresh
    length = np.array([len(prompt.ids)])
    return Prefill(kept, np.zeros([1], np.int64), length), decoder.logits(last)
