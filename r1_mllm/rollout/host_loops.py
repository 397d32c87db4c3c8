# SPDX-License-Identifier: Apache-2.0
"""Decode steps, drawing included, as one compiled function that every thread of a crew runs.

Threads share out the blocks of weight columns, and the (group, key head, sample) triples of attention; between two
shares they meet at a barrier.  Norms are computed by every thread for itself.

Shape letters: B groups, M samples per group, N = B * M rows, K key/value heads, R query heads per key head, D head
size, C hidden size, I intermediate size, P longest prompt (padded to whole blocks), L tail columns, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from ..models.crew import barrier, crew  # noqa: F401 (for those who run these)
from ..models.loops import F4, exp, exp_row, fence, largest, loop, norm_rows, turn_row
from ..models.tiles import BLOCK, ask_for, numbers, packed_product, product
from .trace_loops import ATTENDED, MIDDLE, X, find_live, give_places, keep_gates, keep_rows, keep_turned

IDS = 256
"""Ids that are summed before one of them is looked for."""

AHEAD = 1 << 14
"""Bytes of a tail that are asked for at most before it is worked on."""

NORM_1, QKV, BIAS, O, NORM_2, GATE, UP, DOWN, PREFIX_K, PREFIX_V, TAIL_K, TAIL_V = range(12)
"""Columns of the table of a step's addresses, one row per layer."""


class Sizes(NamedTuple):
    """Of a step, in numbers."""

    groups: int
    samples: int
    kv_heads: int
    repeat: int
    head_dim: int
    hidden: int
    intermediate: int
    vocab: int
    prompt: int
    columns: int


class Places(NamedTuple):
    """Addresses; those in brackets have a copy per thread."""

    x: int
    """[N, C]."""
    normed: int
    """([N, C])."""
    qkv: int
    """[N, K * (R + 2) * D], per key head its queries, the key, the value."""
    q: int
    """([M * R, D])."""
    scores: int
    """([M * R, P + L])."""
    scales: int
    """([M * R])."""
    attended: int
    """([M * R, D])."""
    joined: int
    """[N, K * R * D]."""
    gate: int
    """[N, I]."""
    up: int
    """[N, I]."""
    cos: int
    """[N, D / 2]."""
    sin: int
    """[N, D / 2]."""
    norm: int
    """[C]."""
    head: int
    """Packed [C, V]; 0: the caller multiplies the normed states with it."""
    logits: int
    """[N, V]."""


class Feed(NamedTuple):
    """What the first of some decode steps is given."""

    embedding: np.ndarray
    """[V, C] float32."""
    cos: np.ndarray
    """[positions, D / 2] float32."""
    sin: np.ndarray
    """[positions, D / 2] float32."""
    ids: np.ndarray
    """[N] int64 newest tokens."""
    positions: np.ndarray
    """[N] int64 of those."""


class Chance(NamedTuple):
    """How the tokens of some decode steps are drawn; K steps at most."""

    temperature: float
    allowed: np.ndarray
    """[V] float32, 1 or 0."""
    uniforms: np.ndarray
    """[K, N] float32 in [0, 1)."""
    stop_ids: np.ndarray
    """[any] int64."""
    left: np.ndarray
    """[N] int64 tokens that each row still takes, counted down; 0 or less: it has ended."""
    least: int
    """No more steps once so few rows go on."""
    powers: np.ndarray
    """[threads, V] float32 to work in."""


class Drawn(NamedTuple):
    """What decode steps gave."""

    ids: np.ndarray
    """[K, N] int64; nothing is written for rows that have ended."""
    logprobs: np.ndarray
    """[K, N] float32 nats under softmax(logits / temperature) over all ids."""
    steps: np.ndarray
    """[1] int64 steps taken."""


@njit(inline="always")
def _turn(qkv, bias, cos, sin, q):
    """Add bias to a row's heads qkv [(R + 2) * D] of one key head, turn its queries and key, and scale the queries by
    1 / sqrt(D), all in place; q [R * D] takes a copy of the queries.
    """
    size = 2 * cos.size
    for i in range(qkv.size):
        qkv[i] += bias[i]
    turn_row(qkv, cos, sin, (q.size // size, 1), F4(1.0) / np.sqrt(F4(size)), qkv)
    for i in range(q.size):
        q[i] = qkv[i]


@njit(inline="always")
def _write_key_and_value(qkv, tail_k, tail_v, column):
    """Put the key and the value, the last 2 * D numbers of qkv, at a column of tails [L / BLOCK, D, BLOCK], [L, D]."""
    size, block, place = tail_v.shape[1], column // BLOCK, column % BLOCK
    first = qkv.size - 2 * size
    for d in range(size):
        tail_k[block, d, place] = qkv[first + d]
        tail_v[column, d] = qkv[first + size + d]


@njit(inline="always")
def _joint_powers(prompt, tail):
    """Replace two rows by their powers of e, as one softmax has them; gives what they are still to be scaled by."""
    top = max(largest(prompt), largest(tail))
    return F4(1.0) / exp_row(tail, top, exp_row(prompt, top, F4(0.0)))


@njit(inline="always")
def _attend(thread, i_layer, layer, places, sizes, group, head, first_row, count, prompt, first_columns, column, keep):
    """Attention of `count` going rows of a group from the `first_row`th on, for one key head and its R queries each.

    Tails are asked for while others are worked on: they change with every sample, and memory is far.

    Args: prompt: length of the group's own.  first_columns [M]: of each sample's own tail.  column: of the new token.
    """
    repeat, size, live = sizes.repeat, sizes.head_dim, keep.live[thread]
    run, width, tail = group * sizes.kv_heads + head, sizes.prompt + sizes.columns, 4 * size * sizes.columns
    per_head, half, skipped = (repeat + 2) * size, size // 2, group * sizes.samples
    q_at = places.q + 4 * thread * sizes.samples * repeat * size
    scores_at = places.scores + 4 * thread * sizes.samples * repeat * width
    out_at = places.attended + 4 * thread * sizes.samples * repeat * size
    scales = numbers(places.scales + 4 * thread * sizes.samples * repeat, (sizes.samples * repeat,))
    prefix_at = 4 * run * size * sizes.prompt
    prefix_k, prefix_v = layer[PREFIX_K] + prefix_at, layer[PREFIX_V] + prefix_at
    bias = numbers(layer[BIAS] + 4 * head * per_head, (per_head,))
    for m in range(count):
        row = first_row + m
        qkv = numbers(places.qkv + 4 * (row * sizes.kv_heads + head) * per_head, (per_head,))
        cos, sin = numbers(places.cos + 4 * row * half, (half,)), numbers(places.sin + 4 * row * half, (half,))
        q_here = q_at + 4 * m * repeat * size
        _turn(qkv, bias, cos, sin, numbers(q_here, (repeat * size,)))
        keep_turned(thread, keep, i_layer, row, group, head, sizes, q_here, qkv)
    whole = (prompt + BLOCK - 1) // BLOCK * BLOCK
    packed_product(count * repeat, whole, size, q_at, size, prefix_k, scores_at, width, 0, 0, 1)
    for m in range(count):
        row, sample = first_row + m, live[first_row + m] - skipped
        at = tail * (run * sizes.samples + sample)
        first, scores = first_columns[sample], scores_at + 4 * m * repeat * width
        start, num = first // BLOCK * BLOCK, column + 1 - first
        keys, values = layer[TAIL_K] + at + 4 * start * size, layer[TAIL_V] + at + 4 * first * size
        ask_for(values, min(4 * num * size, AHEAD))
        if m + 1 < count:
            there = live[row + 1] - skipped
            begin = 4 * (first_columns[there] // BLOCK * BLOCK) * size
            place = layer[TAIL_K] + tail * (run * sizes.samples + there) + begin
            ask_for(place, min(4 * (column + 1) * size - begin, AHEAD))
        qkv = numbers(places.qkv + 4 * (row * sizes.kv_heads + head) * per_head, (per_head,))
        tail_k = numbers(layer[TAIL_K] + at, (sizes.columns // BLOCK, size, BLOCK))
        _write_key_and_value(qkv, tail_k, numbers(layer[TAIL_V] + at, (sizes.columns, size)), column)
        on_tail, q_here = scores + 4 * sizes.prompt, q_at + 4 * m * repeat * size
        stop = (column + BLOCK) // BLOCK * BLOCK
        packed_product(repeat, stop - start, size, q_here, size, keys, on_tail + 4 * start, width, 0, 0, 1)
        for r in range(repeat):
            on_prompt = numbers(scores + 4 * r * width, (prompt,))
            scales[m * repeat + r] = _joint_powers(on_prompt, numbers(on_tail + 4 * (r * width + first), (num,)))
        out = out_at + 4 * m * repeat * size
        product(repeat, size, num, on_tail + 4 * first, width, values, size, out, size, 0)
    product(count * repeat, size, prompt, scores_at, width, prefix_v, size, out_at, size, 1)
    for m in range(count):
        for r in range(repeat):
            place = ((first_row + m) * sizes.kv_heads + head) * repeat + r
            joined = numbers(places.joined + 4 * place * size, (size,))
            attended, scale = numbers(out_at + 4 * (m * repeat + r) * size, (size,)), scales[m * repeat + r]
            for d in range(size):
                joined[d] = attended[d] * scale


@njit(inline="always")
def _attend_share(thread, team, i_layer, layer, places, sizes, prompt_lengths, first_column, column, keep):
    """A thread's share of the (group, key head, going row) triples, as runs of rows."""
    begins, kv_heads = keep.begins[thread], sizes.kv_heads
    items = begins[sizes.groups] * kv_heads
    item, last, group = items * thread // team, items * (thread + 1) // team, 0
    while item < last:
        while begins[group + 1] * kv_heads <= item:
            group += 1
        num = begins[group + 1] - begins[group]
        head, before = divmod(item - begins[group] * kv_heads, num)
        count = min(num - before, last - item)
        prompt, firsts, row = prompt_lengths[group], first_column[group], begins[group] + before
        _attend(thread, i_layer, layer, places, sizes, group, head, row, count, prompt, firsts, column, keep)
        item += count


@njit(inline="always")
def _gate_share(thread, team, rows, normed, i_layer, layer, places, sizes, keep):
    """A thread's share of the columns of silu(gate) * up, left where the gate was."""
    hidden, width = sizes.hidden, sizes.intermediate
    packed_product(rows, width, hidden, normed, hidden, layer[GATE], places.gate, width, 0, thread, team)
    packed_product(rows, width, hidden, normed, hidden, layer[UP], places.up, width, 0, thread, team)
    blocks = (width + BLOCK - 1) // BLOCK
    first, last = blocks * thread // team * BLOCK, min(blocks * (thread + 1) // team * BLOCK, width)
    count = max(last - first, 0)
    for row in range(rows):
        at = 4 * (row * width + first)
        gate_at, up_at = places.gate + at, places.up + at
        gate, up = numbers(gate_at, (count,)), numbers(up_at, (count,))
        keep_gates(thread, keep, i_layer, row, sizes.samples, width, first, count, gate_at, up_at)
        for i in range(count):
            gate[i] = gate[i] * up[i] / (F4(1.0) + exp(-gate[i]))


@njit(inline="always")
def _decode(thread, team, control, layers, places, sizes, eps, prompt_lengths, first_column, column, keep):
    """Take the going rows' states, first in places.x, through all layers to places.logits."""
    rows, hidden, width = keep.begins[thread, sizes.groups], sizes.hidden, sizes.intermediate
    samples, heads = sizes.samples, sizes.kv_heads * sizes.repeat * sizes.head_dim
    all_heads = sizes.kv_heads * (sizes.repeat + 2) * sizes.head_dim
    x, normed_at = numbers(places.x, (rows, hidden)), places.normed + 4 * thread * sizes.groups * samples * hidden
    normed = numbers(normed_at, (rows, hidden))
    for i in range(layers.shape[0]):
        layer = layers[i]
        keep_rows(thread, team, keep, i, X, samples, places.x, hidden)
        norm_rows(x, numbers(layer[NORM_1], (hidden,)), eps, normed)
        qkv = places.qkv
        packed_product(rows, all_heads, hidden, normed_at, hidden, layer[QKV], qkv, all_heads, 0, thread, team)
        barrier(control, team)
        _attend_share(thread, team, i, layer, places, sizes, prompt_lengths, first_column, column, keep)
        barrier(control, team)
        keep_rows(thread, team, keep, i, ATTENDED, samples, places.joined, heads)
        packed_product(rows, hidden, heads, places.joined, heads, layer[O], places.x, hidden, 1, thread, team)
        barrier(control, team)
        keep_rows(thread, team, keep, i, MIDDLE, samples, places.x, hidden)
        norm_rows(x, numbers(layer[NORM_2], (hidden,)), eps, normed)
        _gate_share(thread, team, rows, normed_at, i, layer, places, sizes, keep)
        barrier(control, team)
        packed_product(rows, hidden, width, places.gate, width, layer[DOWN], places.x, hidden, 1, thread, team)
        barrier(control, team)
    keep_rows(thread, team, keep, layers.shape[0], X, samples, places.x, hidden)
    norm_rows(x, numbers(places.norm, (hidden,)), eps, normed)
    if places.head:
        vocab = sizes.vocab
        packed_product(rows, vocab, hidden, normed_at, hidden, places.head, places.logits, vocab, 0, thread, team)
    barrier(control, team)


@njit(inline="always")
def _draw_row(given, coldness, allowed, uniform, row, sums):
    """Draw an id from logits `given` [V] as `draw` does; gives it and its log-probability.

    Args: row: [V], sums: [V / IDS, rounded up] float64, both to work in.
    """
    top = largest(given)
    total, kept = 0.0, 0.0
    for block in range(sums.size):
        part, allowed_part, first, end = F4(0.0), F4(0.0), block * IDS, block * IDS + IDS
        scores, powers_here, kept_here = given[first:end], row[first:end], allowed[first:end]
        for i in range(scores.size):
            power = exp((scores[i] - top) * coldness)
            part += power
            powers_here[i] = power * kept_here[i]
            allowed_part += powers_here[i]
        total += part
        kept += allowed_part
        sums[block] = allowed_part
    target, block = uniform * kept, 0
    while block < sums.size - 1 and sums[block] <= target:
        target -= sums[block]
        block += 1
    chosen, reached = -1, 0.0
    for i in range(block * IDS, min(block * IDS + IDS, row.size)):
        if row[i] > 0.0 and (chosen < 0 or reached <= target):
            chosen = i  # the block's last allowed id, where rounding left the target above its sum
            reached += row[i]
    return chosen, np.log(row[chosen] / total)


@njit(inline="always")
def _spread(thread, team, num, live, table):
    """Move a thread's share of the columns of the first rows of a table [N, any] to the rows they are of."""
    first, last = table.shape[1] * thread // team, table.shape[1] * (thread + 1) // team
    for row in range(num - 1, -1, -1):
        if live[row] != row:
            table[live[row], first:last] = table[row, first:last]


@loop
def decode_steps(
    thread, team, control, layers, places, sizes, eps, prompt_lengths, first_column, column, feed, chance, drawn, keep
):
    """Feed one token per going row and draw the next, again and again, until few rows go on.

    Args:
        layers: [layers, 12] int64 addresses.
        prompt_lengths: [B] int64.
        first_column: [B, M] int64, of each row's tail.
        column: of the first new token.
        feed: what goes in.
        chance: how tokens are drawn; without any uniforms, one step is taken as far as its logits.  Only rows that have
            tokens left are computed; they stand together at the beginning of all buffers.
        drawn: what comes out.
        keep: where their states are kept.
    """
    rows, half, hidden = sizes.groups * sizes.samples, sizes.head_dim // 2, sizes.hidden
    x, logits = numbers(places.x, (rows, hidden)), numbers(places.logits, (rows, sizes.vocab))
    cos, sin = numbers(places.cos, (rows, half)), numbers(places.sin, (rows, half))
    num_steps, live = chance.uniforms.shape[0], keep.live[thread]
    coldness, sums = F4(1.0) / F4(chance.temperature), np.empty((sizes.vocab + IDS - 1) // IDS)
    step = 0
    while True:
        num = find_live(thread, keep, sizes, chance.left)
        if step and (step == num_steps or num <= chance.least):
            break
        give_places(thread, keep, sizes)
        first, last = num * thread // team, num * (thread + 1) // team
        for row in range(first, last):
            n = live[row]
            token, position = feed.ids[n] if step == 0 else drawn.ids[step - 1, n], feed.positions[n] + step
            x[row, :], cos[row, :], sin[row, :] = feed.embedding[token], feed.cos[position], feed.sin[position]
        barrier(control, team)
        at = column + step
        _decode(thread, team, control, layers, places, sizes, eps, prompt_lengths, first_column, at, keep)
        if num_steps == 0:
            _spread(thread, team, num, live, logits)
            if thread == 0:
                _spread(0, 1, num, live, numbers(places.normed, (rows, hidden)))
            barrier(control, team)
            break
        for row in range(first, last):
            n = live[row]
            token, logp = _draw_row(
                logits[row], coldness, chance.allowed, chance.uniforms[step, n], chance.powers[thread], sums
            )
            drawn.ids[step, n], drawn.logprobs[step, n] = token, logp
            chance.left[n] -= 1
            for i in range(chance.stop_ids.size):
                if token == chance.stop_ids[i]:
                    chance.left[n] = 0
        barrier(control, team)
        step += 1
    fence()
    if thread == 0:
        drawn.steps[0] = step
        for group in range(keep.first.size):
            keep.first[group] += keep.counts[thread, group]


@loop
def draw(thread, team, control, logits, temperature, allowed, uniforms, powers, ids, logprobs):
    """Draw an id per row of logits [N, V] by inverting the cumulative distribution of the allowed ids.

    Args:
        allowed: [V] 1 or 0.  uniforms: [N] in [0, 1).  powers: [threads, V] to work in.
        ids: [N] int64.  logprobs: [N] nats under softmax(logits / temperature) over all ids.
    """
    coldness, sums = F4(1.0) / F4(temperature), np.empty((logits.shape[1] + IDS - 1) // IDS)
    for n in range(logits.shape[0] * thread // team, logits.shape[0] * (thread + 1) // team):
        ids[n], logprobs[n] = _draw_row(logits[n], coldness, allowed, uniforms[n], powers[thread], sums)
    barrier(control, team)
