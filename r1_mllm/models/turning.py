# SPDX-License-Identifier: Apache-2.0
"""Matrices turned on a CPU, some squares of numbers in vector registers at a time.

A loop that moves single numbers takes 3 to 5 ns for each, most of the time that loading a checkpoint takes; squares,
written past the caches, take 0.5.
"""

from __future__ import annotations

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .loops import EXACT, fence, loop, write_past_caches

VECTOR_BYTES = 32
"""Of a row of a square: 16 numbers of 2 bytes, or 8 of 4."""

LINE = 64
"""Bytes that are written to a row of the result at a time, a line of the caches: from two squares."""


def _turned(builder, rows):
    """Turn a square of as many vectors as each has numbers: each round sets numbers of two rows in turns."""
    size, round_ = len(rows), 1
    half = size // 2
    while round_ < size:
        pairs = zip(rows[:half], rows[half:], strict=True)
        rows = [_in_turns(builder, one, other, first) for one, other in pairs for first in (0, half)]
        round_ *= 2
    return rows


def _in_turns(builder, one, other, first):
    """Take half the numbers of two vectors in turns, from the one numbered `first` on."""
    size = one.type.count
    order = [number for i in range(first, first + size // 2) for number in (i, size + i)]
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(ir.IntType(32), size), order))


@intrinsic(prefer_literal=True)
def _turn_squares(typing_context, matrix, past_caches, source, source_length, out, out_length):
    """Write two squares, one below the other at the address source, turned and side by side to the address out.

    Args:
        matrix: an array of the type of number.
        past_caches: True, a constant, if out and out_length are multiples of VECTOR_BYTES.
        source_length, out_length: bytes from one row to the next.
    """
    size = 8 * VECTOR_BYTES // matrix.dtype.bitwidth
    vector = ir.VectorType(ir.IntType(matrix.dtype.bitwidth), size)

    def generate(context, builder, signature, arguments):
        _, _, source, source_length, out, out_length = arguments

        def place(start, length, i, further=0):
            at = builder.add(builder.add(start, builder.mul(length, length.type(i))), start.type(further))
            return builder.inttoptr(at, vector.as_pointer())

        rows = [builder.load(place(source, source_length, i), align=1) for i in range(2 * size)]
        pairs = zip(_turned(builder, rows[:size]), _turned(builder, rows[size:]), strict=True)
        for i, (left, right) in enumerate(pairs):
            for numbers, further in ((left, 0), (right, VECTOR_BYTES)):
                align = VECTOR_BYTES if past_caches.literal_value else 1
                written = builder.store(numbers, place(out, out_length, i, further), align=align)
                if past_caches.literal_value:
                    write_past_caches(builder, written)
        return context.get_dummy_value()

    return types.void(matrix, past_caches, *(types.intp,) * 4), generate


@njit(**EXACT)
def _by_numbers(source, rows, columns, out, first):
    """Move numbers one by one; rows and columns are those of the source, (begin, end)."""
    for i in range(*rows):
        for j in range(*columns):
            out[j, first + i] = source[i, j]


@loop
def transpose(source, out, first):
    """Write source [a, b] to columns first to first + a of out [b, any]; both C-contiguous, uint16 or uint32."""
    (rows, columns), size = source.shape, source.itemsize
    high, wide = LINE // size, VECTOR_BYTES // size
    whole_rows, whole_columns = rows // high * high, columns // wide * wide
    length, out_length, out_start = columns * size, out.shape[1] * size, out.ctypes.data + first * size
    aligned = out_start % VECTOR_BYTES == 0 and out_length % VECTOR_BYTES == 0
    for row in range(0, whole_rows, high):
        for column in range(0, whole_columns, wide):
            start = source.ctypes.data + row * length + column * size
            end = out_start + column * out_length + row * size
            if aligned:
                _turn_squares(source, True, start, length, end, out_length)
            else:
                _turn_squares(source, False, start, length, end, out_length)
    _by_numbers(source, (0, whole_rows), (whole_columns, columns), out, first)
    _by_numbers(source, (whole_rows, rows), (0, columns), out, first)
    fence()
