# SPDX-License-Identifier: Apache-2.0
"""Products of a few rows with a matrix, whose sums stay in registers.

A BLAS is made for products of hundreds of rows; a decode step has eight.  Here a tile of up to 8 rows and BLOCK
columns is summed in vector registers while the matrix streams past once.  Every number is one chain of fused additions
in the order of the inner dimension: a row gets the same bits whatever rows and threads are beside it.

All functions run inside numba's compiled code and take memory as addresses (ints) and row lengths in numbers; arrays
would be counted by atomic operations at every slice.

Shape letters: M rows, K inner dimension, N columns.
"""

from __future__ import annotations

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .loops import EXACT, exact, loop, write_past_caches

FEATURES = llvmlite.binding.get_host_cpu_features()
LANES = 16 if FEATURES.get("avx512f") else 8
BLOCK = 32
"""Columns of a tile; packed matrices are cut into blocks of so many columns, the last filled up with zeros."""

HALF = 16
"""Columns of a narrow tile, for what is left of a matrix."""

WIDE = LANES == 16
"""Whether registers hold the sums of 8 rows by BLOCK columns; else they hold those of 4 rows by HALF."""

DEPTH = 1 << 30 if WIDE else 128
"""Rows of a block that all tiles go over before the next ones.  Small tiles pass a block several times: these rows stay
in the first-level cache, and each pass asks for its part of the following ones, since otherwise the first would wait
for memory and multiply nothing, and the others would leave memory idle.  Asked for in bursts nothing is gained; in two
stretches in turns, a product takes 1 (16 rows) to 9 % less (8 rows of 640 numbers) than in one.
"""

LINE = 64
"""Bytes that come from memory together."""

ROWS = 16
"""Rows of a matrix that are packed together."""

TEN, ELEVEN = types.void(*(types.int64,) * 10), types.void(*(types.int64,) * 11)
"""Signatures: addresses, lengths and counts."""

FLOAT, WORD = ir.FloatType(), ir.IntType(64)
VECTOR = ir.VectorType(FLOAT, LANES)


def _at(builder, address, offset, kind):
    """Pointer to `kind` at offset numbers after address."""
    return builder.inttoptr(builder.add(address, builder.shl(offset, WORD(2))), kind.as_pointer())


def _in_all_lanes(builder, number):
    unknown, lanes = ir.Constant(VECTOR, ir.Undefined), ir.VectorType(ir.IntType(32), LANES)
    single = builder.insert_element(unknown, number, ir.IntType(32)(0))
    return builder.shuffle_vector(single, unknown, ir.Constant(lanes, [0] * LANES))


def _multiply_add(builder, left, right, total):
    if not FEATURES.get("fma"):
        return builder.fadd(builder.fmul(left, right), total)
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
    return builder.call(function, [left, right, total])


def _ask(builder, address):
    """Have the memory at an address brought into the caches; nothing happens where there is none."""
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    read, soon, not_code = number(0), number(3), number(1)
    builder.call(function, [builder.inttoptr(address, byte), read, soon, not_code])


@intrinsic(prefer_literal=True)
def _tile(typing_context, rows, columns, a, row_stride, stride, b, block_length, c, out_length, inner, add, ahead):
    """c [rows, columns] = a [rows, inner] @ b [inner, columns], added to c where add is not 0.

    rows and columns are constants.  Element i, k of a stands row_stride * i + stride * k numbers after its address.
    ahead: (next, pace, apart).  Meanwhile two stretches of memory are asked for in turns, pace bytes for every k: one
    from the address next on, and one from `apart` bytes further on.
    """
    count, vectors = rows.literal_value, columns.literal_value // LANES

    def generate(context, builder, signature, arguments):
        _, _, a, row_stride, stride, b, block_length, c, out_length, inner, add, ahead = arguments
        next, pace, apart = cgutils.unpack_tuple(builder, ahead)
        lines = [builder.add(a, builder.shl(builder.mul(WORD(i), row_stride), WORD(2))) for i in range(count)]
        outs = [
            _at(builder, c, builder.add(builder.mul(WORD(i), out_length), WORD(v * LANES)), VECTOR)
            for i in range(count)
            for v in range(vectors)
        ]
        zero, adds = ir.Constant(VECTOR, [0.0] * LANES), builder.icmp_signed("!=", add, WORD(0))
        firsts = [builder.select(adds, builder.load(out, align=4), zero) for out in outs]
        before, body, after = builder.block, builder.append_basic_block("sum"), builder.append_basic_block("write")
        builder.cbranch(builder.icmp_signed(">", inner, WORD(0)), body, after)
        builder.position_at_end(body)
        k = builder.phi(WORD)
        totals = [builder.phi(VECTOR) for _ in outs]
        line, step = builder.mul(k, block_length), builder.mul(k, stride)
        if not WIDE:
            which = builder.mul(builder.and_(k, WORD(1)), apart)
            _ask(builder, builder.add(builder.add(next, builder.mul(k, pace)), which))
        right = [
            builder.load(_at(builder, b, builder.add(line, WORD(v * LANES)), VECTOR), align=4) for v in range(vectors)
        ]
        sums = []
        for i in range(count):
            left = _in_all_lanes(builder, builder.load(_at(builder, lines[i], step, FLOAT), align=4))
            sums += [_multiply_add(builder, left, right[v], totals[i * vectors + v]) for v in range(vectors)]
        following = builder.add(k, WORD(1))
        k.add_incoming(WORD(0), before)
        k.add_incoming(following, body)
        for total, first, new in zip(totals, firsts, sums, strict=True):
            total.add_incoming(first, before)
            total.add_incoming(new, body)
        builder.cbranch(builder.icmp_signed("<", following, inner), body, after)
        builder.position_at_end(after)
        results = [builder.phi(VECTOR) for _ in outs]
        for result, first, new in zip(results, firsts, sums, strict=True):
            result.add_incoming(first, before)
            result.add_incoming(new, body)
        for result, out in zip(results, outs, strict=True):
            builder.store(result, out, align=4)
        return context.get_dummy_value()

    return types.void(rows, columns, *(types.intp,) * 9, ahead), generate


@intrinsic
def _pointer(typing_context, address):
    """Address of a float32 as numba's pointer type."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], FLOAT.as_pointer())

    return types.CPointer(types.float32)(address), generate


@intrinsic
def _ask_once(typing_context, address):
    """`_ask` from compiled code."""

    def generate(context, builder, signature, arguments):
        _ask(builder, arguments[0])
        return context.get_dummy_value()

    return types.void(address), generate


@njit(inline="always")
def ask_for(address, count):
    """Have bytes from an address on brought into the caches."""
    for at in range(address, address + count, LINE):
        _ask_once(at)


@njit(inline="always")
def numbers(address, shape):
    """Show float32 memory as an array that is not counted."""
    return carray(_pointer(address), shape)


@intrinsic
def _stream_vector(typing_context, source, target):
    """Copy LANES numbers past the caches; target at a multiple of their size."""

    def generate(context, builder, signature, arguments):
        source, target = (builder.inttoptr(address, VECTOR.as_pointer()) for address in arguments)
        write_past_caches(builder, builder.store(builder.load(source, align=4), target, align=4 * LANES))
        return context.get_dummy_value()

    return types.void(source, target), generate


@njit(inline="always")
def stream(source, target, count):
    """Copy numbers that nobody reads soon; they leave the caches to others.  `fence` belongs behind the last call."""
    done = 0
    if target % (4 * LANES) == 0:
        done = count // LANES * LANES
        for i in range(0, done, LANES):
            _stream_vector(source + 4 * i, target + 4 * i)
    read, written = numbers(source, (count,)), numbers(target, (count,))
    for i in range(done, count):
        written[i] = read[i]


@njit(inline="always")
def _rows(m, columns, inner, a, row_stride, stride, b, block_length, c, out_length, add, ahead):
    """A number of columns known here, BLOCK or HALF, for all rows; each pass asks for its part of what is ahead."""
    i, (next, pace, apart) = 0, ahead
    while i < m:
        left, x, out = m - i, a + 4 * i * row_stride, c + 4 * i * out_length
        ahead = next, pace, apart
        if WIDE and left >= 8:
            _tile(8, columns, x, row_stride, stride, b, block_length, out, out_length, inner, add, ahead)
            i += 8
        elif left >= 4 and not WIDE:
            _tile(4, HALF, x, row_stride, stride, b, block_length, out, out_length, inner, add, ahead)
            if columns > HALF:
                next += inner * pace
                half, there, ahead = b + 4 * HALF, out + 4 * HALF, (next, pace, apart)
                _tile(4, HALF, x, row_stride, stride, half, block_length, there, out_length, inner, add, ahead)
            i += 4
        elif left >= 4:
            _tile(4, columns, x, row_stride, stride, b, block_length, out, out_length, inner, add, ahead)
            i += 4
        elif left >= 2:
            _tile(2, columns, x, row_stride, stride, b, block_length, out, out_length, inner, add, ahead)
            i += 2
        else:
            _tile(1, columns, x, row_stride, stride, b, block_length, out, out_length, inner, add, ahead)
            i += 1
        next += inner * pace


@njit(inline="always")
def _block(m, inner, a, row_stride, stride, b, block_length, c, out_length, add):
    """BLOCK columns for all rows, DEPTH of the inner dimension at a time."""
    pace = 0
    if not WIDE and block_length == BLOCK and m >= 4:  # the next rows follow these, and are passed more than once
        pace = 2 * BLOCK // (m // 4 * 2 + (m % 4 + 1) // 2)
    for k in range(0, max(inner, 1), DEPTH):  # zeros are written where there is nothing to sum
        depth, x, right = min(DEPTH, inner - k), a + 4 * k * stride, b + 4 * k * block_length
        size = 4 * depth * block_length
        ahead = right + size, pace, size // 2
        _rows(m, BLOCK, depth, x, row_stride, stride, right, block_length, c, out_length, add + k, ahead)


@exact(ELEVEN)
def _few_columns(m, n, inner, a, row_stride, stride, b, block_length, c, out_length, add):
    """As a tile, for fewer columns than half a block has."""
    for i in range(m):
        out = numbers(c + 4 * i * out_length, (n,))
        for j in range(n):
            out[j] = out[j] if add else np.float32(0.0)
        for k in range(inner):
            row, number = numbers(b + 4 * k * block_length, (n,)), numbers(a + 4 * (i * row_stride + k * stride), (1,))
            for j in range(n):
                out[j] += number[0] * row[j]


@njit(inline="always")
def _by_blocks(m, n, inner, a, row_stride, stride, b, block_length, c, out_length, add):
    """Inlined, since a stride that is known makes a product a tenth to a fifth faster."""
    column = 0
    while column < n:
        left, right, out = n - column, b + 4 * column, c + 4 * column
        if left >= BLOCK:
            _block(m, inner, a, row_stride, stride, right, block_length, out, out_length, add)
            column += BLOCK
        elif left >= HALF:
            _rows(m, HALF, inner, a, row_stride, stride, right, block_length, out, out_length, add, (0, 0, 0))
            column += HALF
        else:
            _few_columns(m, left, inner, a, row_stride, stride, right, block_length, out, out_length, add)
            column = n


@exact(TEN)
def product(m, n, inner, a, row_length, b, block_length, c, out_length, add):
    """c [M, N] = a [M, K] @ b [K, N] at addresses, each with its own row length; with add 1, added to c."""
    _by_blocks(m, n, inner, a, row_length, 1, b, block_length, c, out_length, add)


@exact(TEN)
def turned_product(m, n, inner, a, row_length, b, block_length, c, out_length, add):
    """As `product`, with a [K, M] turned."""
    _by_blocks(m, n, inner, a, 1, row_length, b, block_length, c, out_length, add)


@exact(ELEVEN)
def packed_product(m, n, inner, a, row_length, packed, c, out_length, add, thread, num_threads):
    """As `product` with a packed matrix b; each thread does its share of the blocks."""
    blocks = (n + BLOCK - 1) // BLOCK
    for block in range(blocks * thread // num_threads, blocks * (thread + 1) // num_threads):
        b, out, width = packed + 4 * block * inner * BLOCK, c + 4 * block * BLOCK, min(BLOCK, n - block * BLOCK)
        if width == BLOCK:
            _block(m, inner, a, row_length, 1, b, BLOCK, out, out_length, add)  # with a length of rows that is known
        else:
            product(m, width, inner, a, row_length, b, BLOCK, out, out_length, add)


@loop
def pack(weight, first, width, transposed, out):
    """Write columns first to first + width of weight [K, any] (transposed: rows of [any, K]) block by block.

    Args: out: [blocks, K, BLOCK].
    """
    for start in range(0, out.shape[1], ROWS):  # a few rows at a time: they are read, and blocks written, in stretches
        end = min(start + ROWS, out.shape[1])
        for block in range(out.shape[0]):
            column = first + block * BLOCK
            if (block + 1) * BLOCK <= width:
                _pack_block(weight, column, transposed, out[block], start, end)
                continue
            for k in range(start, end):
                for j in range(BLOCK):
                    inside = block * BLOCK + j < width
                    at = column + j if inside else column
                    number = weight[at, k] if transposed else weight[k, at]
                    out[block, k, j] = number if inside else np.float32(0.0)


@njit(**EXACT)
def _pack_block(weight, column, transposed, out, start, end):
    """Rows start to end of a whole block out [K, BLOCK]."""
    source, target, length = weight.ctypes.data + 4 * column, out.ctypes.data, weight.shape[1]
    for k in range(start, end):
        line = numbers(target + 4 * k * BLOCK, (BLOCK,))
        if transposed:
            for j in range(BLOCK):
                line[j] = weight[column + j, k]
        else:
            row = numbers(source + 4 * k * length, (BLOCK,))
            for j in range(BLOCK):
                line[j] = row[j]
