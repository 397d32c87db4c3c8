# SPDX-License-Identifier: Apache-2.0
"""Attention a few queries at a time, in compiled code: scores stay in the second-level cache and nothing is kept.

The scheme of FlashAttention (Dao et al., arXiv:2205.14135) for a CPU: of a family of tokens that share a prompt or a
picture, each key head's keys and values are laid out once; then blocks of queries meet them, and the backward pass
computes their softmax anew.  Every (family, key head) pair is one piece of work of one thread; pieces write to
different places.

Shape letters: T tokens, A heads of a fused row, H query heads, K key/value heads, R = H / K, D head size, n tokens of a
family, Q queries of a block, S their keys.
"""

from __future__ import annotations

from numba import njit

from .crew import barrier, crew  # noqa: F401 (for those who run these)
from .loops import EXACT, F4, loop, softmax_gradient_row, softmax_row
from .tiles import BLOCK, numbers, product, turned_product

FIRST, LENGTH, PARTS, PARTS_END = range(4)
"""Columns of a family: place of its first token in `order`, number of its tokens, first and last of its parts."""

BEGIN, END, PREFIX, CAUSAL = range(4)
"""Columns of a part: tokens BEGIN to END of the family see its first PREFIX tokens and, if CAUSAL, from BEGIN on all up
to themselves."""

SCORES = 1 << 16
"""Scores of a block of queries (256 KB): they and what they are made of stay in the second-level cache."""


@njit(**EXACT)
def _padded(n):
    """A row length for n scores, with room for whole blocks behind any of them."""
    return (n + BLOCK - 1) // BLOCK * BLOCK + BLOCK


@njit(**EXACT)
def block_tokens(part, repeat):
    """Tokens of a part's blocks of queries."""
    keys = part[PREFIX] + (part[END] - part[BEGIN] if part[CAUSAL] else 0)
    return max(1, max(8, SCORES // _padded(keys)) // repeat)


@loop
def work_size(n, repeat, size):
    """Numbers a thread works in, for families of at most n tokens."""
    queries = max(8, SCORES // _padded(1)) // repeat * repeat + repeat
    scores = max(SCORES, (8 + repeat) * _padded(n))
    return 2 * _padded(n) * size + 4 * n * size + 2 * scores + 3 * queries * size


@njit(**EXACT)
def _take(rows, width, order, first, count, column, size, out):
    """Copy numbers column to column + size of rows order[first : first + count] to out [count, size]."""
    for i in range(count):
        source = numbers(rows + 4 * (order[first + i] * width + column), (size,))
        target = numbers(out + 4 * i * size, (size,))
        for d in range(size):
            target[d] = source[d]


@njit(**EXACT)
def _turn(rows, count, size, out, length):
    """rows [count, size] -> out [size, length]."""
    for d in range(size):
        target = numbers(out + 4 * d * length, (count,))
        for i in range(count):
            target[i] = numbers(rows + 4 * (i * size + d), (1,))[0]


@njit(**EXACT)
def _put(source, width, order, first, count, column, size, rows):
    """Copy source [count, size] to where `_take` finds it."""
    for i in range(count):
        target = numbers(rows + 4 * (order[first + i] * width + column), (size,))
        given = numbers(source + 4 * i * size, (size,))
        for d in range(size):
            target[d] = given[d]


@njit(**EXACT)
def _block(part, start, step):
    """Of a block of at most `step` queries from `start` on: their number, the own tokens they see, a row's length."""
    count = min(step, part[END] - start)
    num_own = start + count - part[BEGIN] if part[CAUSAL] else 0
    return count, num_own, _padded(part[PREFIX] + num_own)


@njit(**EXACT)
def _meet(rows, size, x, part, num_own, turned, length, out, width):
    """out [rows, width] = x [rows, D] @ a part's prefix and its own first tokens, turned [D, length]."""
    prefix = part[PREFIX]
    product(rows, (prefix + BLOCK - 1) // BLOCK * BLOCK, size, x, size, turned, length, out, width, 0)
    own = (num_own + BLOCK - 1) // BLOCK * BLOCK
    product(rows, own, size, x, size, turned + 4 * part[BEGIN], length, out + 4 * prefix, width, 0)


@njit(**EXACT)
def _combine(rows, size, weights, width, part, num_own, values, out):
    """out [rows, D] = weights [rows, width] @ values of the prefix and of the own first tokens, values [n, D]."""
    prefix = part[PREFIX]
    product(rows, size, prefix, weights, width, values, size, out, size, 0)
    own = values + 4 * part[BEGIN] * size
    product(rows, size, num_own, weights + 4 * prefix, width, own, size, out, size, 1)


@njit(**EXACT)
def _collect(rows, size, weights, width, part, num_own, x, out):
    """Add weights' [rows, width] turned @ x [rows, D] to the rows of out [n, D] that the weights belong to."""
    prefix = part[PREFIX]
    turned_product(prefix, size, rows, weights, width, x, size, out, size, 1)
    turned_product(num_own, size, rows, weights + 4 * prefix, width, x, size, out + 4 * part[BEGIN] * size, size, 1)


@njit(inline="always")
def _softmax(start, count, repeat, part, num_own, scores, width):
    """Softmax of what each row may see, zeros elsewhere; tokens start to start + count of a part, R rows each."""
    prefix = part[PREFIX]
    for row in range(count * repeat):
        sees = prefix + (start + row // repeat - part[BEGIN] + 1 if part[CAUSAL] else 0)
        line = numbers(scores + 4 * row * width, (prefix + num_own,))
        softmax_row(line[:sees])
        for i in range(sees, line.size):
            line[i] = F4(0.0)


@njit(inline="always")
def _slope(rows, part, num_own, weights, grads, width):
    """Turn grads, of softmax results `weights`, both [rows, width], into those of the scores."""
    num_keys = part[PREFIX] + num_own
    for row in range(rows):
        place = 4 * row * width
        softmax_gradient_row(numbers(weights + place, (num_keys,)), numbers(grads + place, (num_keys,)))


@loop
def attend(thread, team, control, qkv, order, families, parts, heads, skip, out, work):
    """out [T - skip, H * D] = attention of fused rows qkv [T, A * D], queries already scaled.

    Args:
        order: [tokens of families] int64.
        families, parts: [.., 4] int64.
        heads: (H, K, D).
        skip: tokens at the start that are in no part and have no row of out.
        work: [threads, any].
    """
    num_heads, kv_heads, size = heads
    repeat, all_width, out_width = num_heads // kv_heads, qkv.shape[1], num_heads * size
    source, memory = qkv.ctypes.data, work[thread].ctypes.data
    target = out.ctypes.data - 4 * skip * out_width  # token 0 would stand there
    for item in range(thread, len(families) * kv_heads, team):
        family, head = families[item // kv_heads], item % kv_heads
        first, n = family[FIRST], family[LENGTH]
        query_column, query_width = head * repeat * size, repeat * size
        length = _padded(n)
        values, keys = memory, memory + 4 * n * size
        turned, q = keys + 4 * n * size, keys + 4 * (n + length) * size
        _take(source, all_width, order, first, n, (num_heads + head) * size, size, keys)
        _turn(keys, n, size, turned, length)
        _take(source, all_width, order, first, n, (num_heads + kv_heads + head) * size, size, values)
        for i in range(family[PARTS], family[PARTS_END]):
            part = parts[i]
            step = block_tokens(part, repeat)
            for start in range(part[BEGIN], part[END], step):
                count, num_own, width = _block(part, start, step)
                rows, at = count * repeat, first + start
                found, scores = q + 4 * rows * size, q + 8 * rows * size
                _take(source, all_width, order, at, count, query_column, query_width, q)
                _meet(rows, size, q, part, num_own, turned, length, scores, width)
                _softmax(start, count, repeat, part, num_own, scores, width)
                _combine(rows, size, scores, width, part, num_own, values, found)
                _put(found, out_width, order, at, count, query_column, query_width, target)
    barrier(control, team)


@loop
def attend_gradient(thread, team, control, qkv, grad_out, order, families, parts, heads, skip, grad, work):
    """Gradient `grad` [T, A * D] of qkv from that of the output, grad_out [T - skip, H * D]; the rest as `attend`.

    Queries of the first `skip` tokens have none: their places are left as they are.
    """
    num_heads, kv_heads, size = heads
    repeat, all_width, out_width = num_heads // kv_heads, qkv.shape[1], num_heads * size
    source, target = qkv.ctypes.data, grad.ctypes.data
    given = grad_out.ctypes.data - 4 * skip * out_width
    for item in range(thread, len(families) * kv_heads, team):
        family, head = families[item // kv_heads], item % kv_heads
        first, n = family[FIRST], family[LENGTH]
        query_column, query_width = head * repeat * size, repeat * size
        length, key_column = _padded(n), (num_heads + head) * size
        value_column = key_column + kv_heads * size
        keys = work[thread].ctypes.data
        grad_keys, grad_values = keys + 4 * n * size, keys + 8 * n * size
        turned_keys = keys + 12 * n * size
        turned_values = turned_keys + 4 * length * size
        q = turned_values + 4 * length * size
        _take(source, all_width, order, first, n, value_column, size, keys)
        _turn(keys, n, size, turned_values, length)
        _take(source, all_width, order, first, n, key_column, size, keys)
        _turn(keys, n, size, turned_keys, length)
        numbers(grad_keys, (2 * n * size,))[:] = F4(0.0)
        for i in range(family[PARTS], family[PARTS_END]):
            part = parts[i]
            step = block_tokens(part, repeat)
            for start in range(part[BEGIN], part[END], step):
                count, num_own, width = _block(part, start, step)
                rows, at = count * repeat, first + start
                slope, found = q + 4 * rows * size, q + 8 * rows * size
                weights = found + 4 * rows * size
                grads = weights + 4 * rows * width
                _take(source, all_width, order, at, count, query_column, query_width, q)
                _take(given, out_width, order, at, count, query_column, query_width, slope)
                _meet(rows, size, q, part, num_own, turned_keys, length, weights, width)
                _softmax(start, count, repeat, part, num_own, weights, width)
                _meet(rows, size, slope, part, num_own, turned_values, length, grads, width)
                _slope(rows, part, num_own, weights, grads, width)
                _combine(rows, size, grads, width, part, num_own, keys, found)
                _put(found, all_width, order, at, count, query_column, query_width, target)
                _collect(rows, size, grads, width, part, num_own, q, grad_keys)
                _collect(rows, size, weights, width, part, num_own, slope, grad_values)
        _put(grad_keys, all_width, order, first, n, key_column, size, target)
        _put(grad_values, all_width, order, first, n, value_column, size, target)
    barrier(control, team)
