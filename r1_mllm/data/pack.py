# SPDX-License-Identifier: Apache-2.0
"""Groups, or supervised pairs, laid into rows of tokens without padding.

Shape letters: T packed tokens, P prompt tokens, C completion tokens, N patches, M merged visual tokens, I images.
A prompt stands once before its completions; see `PackedBatch` for who sees whom.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ..records import Completion, Example, Group, PackedBatch, Prompt


@dataclass(frozen=True)
class Share:
    """The part of a group that stands in one pack: all its completions, unless the group is larger than a pack."""

    group: int
    completions: tuple[int, ...]


def pack(
    groups: Sequence[Group],
    tokens_per_pack: int,
    visual_ids: Collection[int],
    mask_truncated: bool = False,
    at_least: int = 1,
) -> list[PackedBatch]:
    """Lay groups into as few packs as first-fit finds, or into `at_least` of about equal size.

    Args:
        groups: with advantages; None counts as 1 on every token (supervised pairs).
        tokens_per_pack: budget; a group above it is spread over several packs, its prompt repeated, and a single
            completion above it gets a pack of its own.
        visual_ids: image and video placeholder ids.
        mask_truncated: keep completions cut at the length limit out of the loss.
        at_least: packs that can run side by side.  Groups are not cut for it: reading a prompt and its pictures twice
            costs more than it wins.
    """
    shares = plan(groups, tokens_per_pack)
    if len(shares) < at_least <= len(groups):
        shares = balance(groups, at_least)
    return [assemble(members, groups, visual_ids, mask_truncated) for members in shares]


def plan(groups: Sequence[Group], tokens_per_pack: int) -> list[list[Share]]:
    """Decide what stands in which pack: longest first, each into the first pack with room; the same every time."""
    sized = [(length, share) for i, group in enumerate(groups) for length, share in _shares(i, group, tokens_per_pack)]
    sized.sort(key=lambda item: -item[0])
    packs: list[list[Share]] = []
    room: list[int] = []
    for length, share in sized:
        fitting = next((i for i, free in enumerate(room) if length <= free), None)
        if fitting is None:
            packs.append([])
            room.append(tokens_per_pack)
            fitting = len(packs) - 1
        packs[fitting].append(share)
        room[fitting] -= length
    return [sorted(shares, key=lambda share: (share.group, share.completions)) for shares in packs]


def balance(groups: Sequence[Group], num_packs: int) -> list[list[Share]]:
    """Spread whole groups evenly over num_packs: longest first, each into the emptiest."""
    sized = []
    for i_group, group in enumerate(groups):
        length = len(group.prompt.ids) + sum(len(completion.ids) for completion in group.completions)
        sized.append((length, Share(i_group, tuple(range(len(group.completions))))))
    sized.sort(key=lambda item: -item[0])
    packs: list[list[Share]] = [[] for _ in range(num_packs)]
    filled = [0] * num_packs
    for length, share in sized:
        emptiest = filled.index(min(filled))
        packs[emptiest].append(share)
        filled[emptiest] += length
    return [sorted(shares, key=lambda share: share.group) for shares in packs]


def _shares(i_group: int, group: Group, tokens_per_pack: int) -> list[tuple[int, Share]]:
    """Cut a group into pieces that fit a pack: (tokens, share)."""
    prompt_length = len(group.prompt.ids)
    shares, chosen, length = [], [], prompt_length
    for i_completion, completion in enumerate(group.completions):
        if chosen and length + len(completion.ids) > tokens_per_pack:
            shares.append((length, Share(i_group, tuple(chosen))))
            chosen, length = [], prompt_length
        chosen.append(i_completion)
        length += len(completion.ids)
    return [*shares, (length, Share(i_group, tuple(chosen)))]


def assemble(
    shares: Sequence[Share], groups: Sequence[Group], visual_ids: Collection[int], mask_truncated: bool = False
) -> PackedBatch:
    """Lay one pack; its rows are numbered in the order of `shares` and of their completions."""
    pieces = []
    start = num_rows = 0
    for share in shares:
        piece = _lay_group(groups[share.group], share.completions, start, num_rows, mask_truncated)
        pieces.append(piece)
        start += len(piece["ids"])
        num_rows += len(share.completions)
    fields = {name: np.concatenate([piece[name] for piece in pieces], axis=-1) for name in pieces[0]}
    members = [groups[share.group] for share in shares]
    visual = _visual(fields["ids"], fields["row"], [group.prompt for group in members], visual_ids)
    readings = [group.reading for group in members if group.reading is not None and group.reading.alive]
    return PackedBatch(
        **fields, num_rows=num_rows, readings=readings if len(readings) == len(members) else (), **visual
    )


def _lay_group(group: Group, completions: Sequence[int], start: int, first_row: int, mask_truncated: bool) -> dict:
    """Lay a prompt and some of its completions: the per-token fields, with `visible_until` counted from `start`."""
    prompt, chosen = group.prompt, [group.completions[i] for i in completions]
    lengths = np.array([len(completion.ids) for completion in chosen])
    num_prompt, total = len(prompt.ids), len(prompt.ids) + lengths.sum()
    ends = start + num_prompt + np.cumsum(lengths)
    offsets = np.concatenate([np.arange(length) for length in lengths])
    values = np.ones(len(group.completions)) if group.advantages is None else group.advantages
    kept = np.array([completion.finished or not mask_truncated for completion in chosen])

    def tokens(before, per_row: np.ndarray, dtype) -> np.ndarray:
        return np.concatenate([np.full(num_prompt, before, dtype), np.repeat(per_row, lengths).astype(dtype)])

    row = tokens(-1, first_row + np.arange(len(chosen)), np.int32)
    mask, advantages = tokens(False, kept, bool), tokens(0.0, np.asarray(values)[list(completions)], np.float32)
    if prompt.answers is not None:  # a conversation: earlier answers belong to the row of the last one
        assert len(group.completions) == 1, "answers inside a prompt are for supervised pairs"
        earlier = np.flatnonzero(prompt.answers)
        row[earlier], mask[earlier], advantages[earlier] = first_row, True, advantages[-1]
    after = np.broadcast_to(prompt.next_position + offsets, (3, len(offsets)))
    return {
        "ids": np.concatenate([prompt.ids, *(completion.ids for completion in chosen)]).astype(np.int64),
        "positions": np.concatenate([prompt.positions, after], axis=1).astype(np.int64),
        "visible_until": tokens(start + total, ends, np.int32),
        "row": row,
        "mask": mask,
        "sampler_logp": np.concatenate([np.zeros(num_prompt), *(c.logprobs for c in chosen)]).astype(np.float32),
        "advantages": advantages,
    }


def _visual(ids: np.ndarray, row: np.ndarray, prompts: Sequence[Prompt], visual_ids: Collection[int]) -> dict:
    """Join the pictures of the prompts and find where their tokens stand; nothing for text-only packs."""
    pictured = [prompt for prompt in prompts if prompt.pixels is not None]
    if not pictured:
        return {}
    timed = any(prompt.second_per_grid is not None for prompt in pictured)
    seconds = [np.ones(len(p.grids)) if p.second_per_grid is None else p.second_per_grid for p in pictured]
    return {
        "pixels": np.concatenate([prompt.pixels for prompt in pictured]),
        "grids": np.concatenate([prompt.grids for prompt in pictured]),
        "second_per_grid": np.concatenate(seconds).astype(np.float32) if timed else None,
        # Completions hold no pictures: an id the model wrote must not be taken for a placeholder.
        "patch_rows": np.flatnonzero(np.isin(ids, list(visual_ids)) & (row < 0)),
    }


def supervised_pair(prompt: Prompt, completion_ids: np.ndarray, text: str = "") -> Group:
    """Wrap a prompt and the answer to learn, stop token included ([C] int64), as a group of one completion."""
    ids = np.asarray(completion_ids, np.int64)
    completion = Completion(ids=ids, logprobs=np.zeros(len(ids), np.float32), text=text, finished=True)
    return Group(example=Example(task="", question="", answer=None), prompt=prompt, completions=[completion])
