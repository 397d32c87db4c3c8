# SPDX-License-Identifier: Apache-2.0
"""Loops over float32 arrays, compiled by numba: one pass where operators need three to eight.

Each writes into arrays it is given and lets other Python threads run.  tests/models/test_loops.py compares them with
plain numpy.

Shape letters: T tokens, C hidden size, X any rows, S keys, V vocabulary, D head size, I intermediate size; N rows while
decoding.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from pathlib import Path

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

F4 = np.float32
LOG2_E, LN2_HIGH, LN2_LOW = F4(1.44269504088896341), F4(0.693359375), F4(-2.12194440e-4)
LOWEST, HIGHEST = F4(-87.0), F4(88.0)
"""Exponents outside are held here: their powers would not be normal numbers."""

COMPARED = 16
"""Numbers that are compared at a time."""

EXACT = {"nogil": True, "error_model": "numpy"}
"""For functions that others call: each operation is what it says."""

OPTIONS = EXACT | {"fastmath": {"contract", "reassoc", "nsz", "arcp"}}
"""For whole loops: sums in vector lanes; NaN and infinity stay what they are.

What a loop calls is either EXACT or inlined: a function of its own is optimised anew in every unit, and a process that
compiles it would get other bits than one that finds it compiled.
"""


COMPILED = ("models/loops.py", "models/tiles.py", "models/crew.py", "models/tiled_loops.py", "models/turning.py",
            "rollout/host_loops.py", "rollout/trace_loops.py")  # fmt: skip
"""Files whose functions stand inside each other once they are compiled."""


@functools.cache
def _sources() -> str:
    """A digest of those files."""
    package = Path(__file__).parents[1]
    return hashlib.sha256(b"".join((package / name).read_bytes() for name in COMPILED)).hexdigest()[:16]


@functools.cache
def drop_stale(folder: str, sources: str) -> None:
    """Drop what was compiled from other sources: numba looks at a function's own file, not at what it calls.

    Args: folder: in which numba keeps what it has compiled.  sources: a digest.
    """
    place = Path(folder)
    mark = place / f"r1_mllm-{sources}.sources"
    if mark.exists():
        return
    place.mkdir(parents=True, exist_ok=True)
    for old in [*place.glob("*.nbi"), *place.glob("r1_mllm-*.sources")]:  # an index gone, its code is not found
        old.unlink(missing_ok=True)
    mark.touch()


def _compiled(function, *signature, **options):
    """Compile, now or at the first call; the result is kept beside the file or in the user's cache, if there is one."""
    try:
        compiled = njit(*signature, cache=True, **options)(function)
        with contextlib.suppress(OSError):
            drop_stale(compiled.stats.cache_path, _sources())
        return compiled
    except RuntimeError:
        return njit(*signature, **options)(function)


def loop(function):
    """Compile at the first call, for the types it comes with."""
    return _compiled(function, **OPTIONS)


def exact(signature):
    """Compile for one signature: a function that others call with all kinds of integers is compiled once."""
    return lambda function: _compiled(function, signature, **EXACT)


@intrinsic
def _as_float(typing_context, bits):
    """Read the bits of an int32 as a float32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


def write_past_caches(builder, stored):
    """Have a store leave the caches to others; `fence` belongs behind the last one."""
    stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))


@intrinsic
def fence(typing_context):
    """Let what this thread wrote past the caches be seen by others before what it writes next."""

    def generate(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@njit(inline="always")
def exp(x):
    """e to the power of x, to 2 units in the last place: Cody and Waite's reduction, Cephes' polynomial."""
    x = LOWEST if x < LOWEST else x  # in this order NaN stays NaN
    x = HIGHEST if x > HIGHEST else x
    n = np.floor(x * LOG2_E + F4(0.5))
    r = x - n * LN2_HIGH
    r = r - n * LN2_LOW
    p = F4(1.9875691500e-4)
    p = p * r + F4(1.3981999507e-3)
    p = p * r + F4(8.3334519073e-3)
    p = p * r + F4(4.1665795894e-2)
    p = p * r + F4(1.6666665459e-1)
    p = p * r + F4(5.0000001201e-1)
    return (p * r * r + r + F4(1.0)) * _as_float((np.int32(n) + np.int32(127)) << np.int32(23))


@njit(inline="always")
def norm_rows(x, weight, eps, out):
    """out = x / rms(x) * weight for x, out [T, C], weight [C]."""
    for t in range(x.shape[0]):
        total = F4(0.0)
        for c in range(x.shape[1]):
            total += x[t, c] * x[t, c]
        scale = F4(1.0) / np.sqrt(total / F4(x.shape[1]) + F4(eps))
        for c in range(x.shape[1]):
            out[t, c] = x[t, c] * scale * weight[c]


@loop
def rms_norm(x, weight, eps, out):
    """`norm_rows` as a loop of its own."""
    norm_rows(x, weight, eps, out)


@loop
def rms_norm_gradient(x, weight, grad, eps, grad_x, grad_weight):
    """Gradients of `rms_norm`: x, grad, grad_x [T, C]; weight, grad_weight [C]."""
    width = x.shape[1]
    grad_weight[:] = F4(0.0)
    for t in range(x.shape[0]):
        squares, along = F4(0.0), F4(0.0)
        for c in range(width):
            squares += x[t, c] * x[t, c]
            along += grad[t, c] * weight[c] * x[t, c]
        scale = F4(1.0) / np.sqrt(squares / F4(width) + F4(eps))
        back = along * scale * scale * scale / F4(width)
        for c in range(width):
            grad_x[t, c] = grad[t, c] * weight[c] * scale - x[t, c] * back
            grad_weight[c] += grad[t, c] * x[t, c] * scale


@loop
def silu_times(gate, up, out):
    """out = silu(gate) * up, all [X, I]."""
    for t in range(gate.shape[0]):
        for i in range(gate.shape[1]):
            out[t, i] = gate[t, i] * up[t, i] / (F4(1.0) + exp(-gate[t, i]))


@loop
def silu_times_gradient(gate, up, inner, grad_up, hidden):
    """Turn inner, the gradient of silu(gate) * up, into that of gate; write that of up, and the product itself."""
    for t in range(gate.shape[0]):
        for i in range(gate.shape[1]):
            x, u, d = gate[t, i], up[t, i], inner[t, i]
            sigmoid = F4(1.0) / (F4(1.0) + exp(-x))
            silu = x * sigmoid
            grad_up[t, i] = d * silu
            hidden[t, i] = silu * u
            inner[t, i] = d * u * (sigmoid + silu - silu * sigmoid)


@njit(inline="always")
def turn_row(x, cos, sin, heads, scale, out):
    """Turn the queries (the first heads[0], scaled) and keys (heads[1] after them) of a fused row x to out."""
    half = cos.size
    for h in range(heads[0] + heads[1]):
        low, factor = 2 * half * h, scale if h < heads[0] else F4(1.0)
        for d in range(half):
            a, b, c, s = x[low + d], x[low + half + d], cos[d] * factor, sin[d] * factor
            out[low + d] = a * c - b * s
            out[low + half + d] = b * c + a * s


@loop
def rotate(x, cos, sin, heads, scale, out):
    """Turn queries and keys of fused rows x, out [T, heads * D]; the rest is copied.

    Args:
        cos, sin: [T, D / 2]; with -sin, the gradient's way.
        heads: (query heads, key heads).
        scale: of the queries, float32.
    """
    turned = 2 * cos.shape[1] * (heads[0] + heads[1])
    for t in range(x.shape[0]):
        turn_row(x[t], cos[t], sin[t], heads, scale, out[t])
        out[t, turned:] = x[t, turned:]


@loop
def rotate_in_place(x, cos, sin, heads, scale):
    """As `rotate`, leaving the result where the rows are."""
    for t in range(x.shape[0]):
        turn_row(x[t], cos[t], sin[t], heads, scale, x[t])


@intrinsic
def _largest_of_vectors(typing_context, address, count):
    """Largest of count >= COMPARED float32 numbers at an address; of the last COMPARED some are looked at twice."""

    def generate(context, builder, signature, arguments):
        word, lane = ir.IntType(64), ir.IntType(32)
        vector = ir.VectorType(ir.FloatType(), COMPARED)
        address, count = arguments

        def load(first):
            place = builder.add(address, builder.shl(first, word(2)))
            return builder.load(builder.inttoptr(place, vector.as_pointer()), align=4)

        def larger(one, other):  # LLVM knows this as one instruction, and does not find it in a loop of its own
            return builder.select(builder.fcmp_ordered(">", one, other), one, other)

        last = builder.sub(count, word(COMPARED))
        before, body, after = builder.block, builder.append_basic_block("most"), builder.append_basic_block("last")
        top_before = load(word(0))
        builder.cbranch(builder.icmp_signed("<", word(COMPARED), last), body, after)
        builder.position_at_end(body)
        first, top = builder.phi(word), builder.phi(vector)
        new, following = larger(load(first), top), builder.add(first, word(COMPARED))
        for phi, start, end in ((first, word(COMPARED), following), (top, top_before, new)):
            phi.add_incoming(start, before)
            phi.add_incoming(end, body)
        builder.cbranch(builder.icmp_signed("<", following, last), body, after)
        builder.position_at_end(after)
        found = builder.phi(vector)
        found.add_incoming(top_before, before)
        found.add_incoming(new, body)
        found, distance = larger(load(last), found), COMPARED // 2
        while distance:
            order = ir.Constant(ir.VectorType(lane, COMPARED), [i ^ distance for i in range(COMPARED)])
            found, distance = larger(builder.shuffle_vector(found, found, order), found), distance // 2
        return builder.extract_element(found, lane(0))

    return types.float32(address, count), generate


@njit(inline="always")
def largest(row):
    """Largest number of a row; NaN counts as any number."""
    if row.size >= COMPARED:
        return _largest_of_vectors(row.ctypes.data, row.size)
    top = row[0]
    for i in range(1, row.size):
        top = row[i] if row[i] > top else top
    return top


@njit(inline="always")
def exp_row(row, top, total):
    """Replace a row by e to the power of how far each is above top; gives total plus their sum."""
    for i in range(row.size):
        below = row[i] - top
        power = F4(0.0) if below < LOWEST else exp(below)  # what a mask hides counts nothing at all
        row[i] = power
        total += power
    return total


@njit(inline="always")
def scale_row(row, factor):
    """Multiply a row by a number."""
    for i in range(row.size):
        row[i] *= factor


@njit(inline="always")
def softmax_row(row):
    """Replace a row by its softmax."""
    scale_row(row, F4(1.0) / exp_row(row, largest(row), F4(0.0)))


@njit(inline="always")
def softmax_gradient_row(weights, grad):
    """Replace grad, the gradient of a softmax's result `weights`, by the gradient of its scores."""
    along = F4(0.0)
    for i in range(weights.size):
        along += weights[i] * grad[i]
    for i in range(weights.size):
        grad[i] = weights[i] * (grad[i] - along)


@loop
def softmax(scores):
    """Replace each row of scores [X, S] by its softmax."""
    for t in range(scores.shape[0]):
        softmax_row(scores[t])


@loop
def masked_softmax(scores, mask):
    """Replace each row of scores [X, S] by the softmax of scores + mask; mask [X, at least S]."""
    for t in range(scores.shape[0]):
        row, hidden = scores[t], mask[t]
        for i in range(row.size):
            row[i] += hidden[i]
        softmax_row(row)


@loop
def softmax_gradient(weights, grad):
    """`softmax_gradient_row` for each row of weights, grad [X, S]."""
    for t in range(weights.shape[0]):
        softmax_gradient_row(weights[t], grad[t])


@loop
def pick_logp(logits, targets, logp):
    """Replace each row of logits [X, V] by its softmax and write the log-probability of its target to logp [X]."""
    for t in range(logits.shape[0]):
        row = logits[t]
        top, chosen = largest(row), row[targets[t]]
        total = F4(0.0)
        for i in range(row.size):
            power = exp(row[i] - top)
            row[i] = power
            total += power
        logp[t] = np.float64(chosen) - np.float64(top) - np.log(np.float64(total))
        scale_row(row, F4(1.0) / total)


@loop
def pick_logp_gradient(probs, targets, grad):
    """Replace probs [X, V] by the gradient of the logits: grad [X] times (onehot - probs)."""
    for t in range(probs.shape[0]):
        for i in range(probs.shape[1]):
            probs[t, i] *= -grad[t]
        probs[t, targets[t]] += grad[t]


@loop
def add_rows(rows, places, table):
    """Add rows [T, C] to those rows of a table [V, C] that places [T] int64 name; some may be named twice."""
    for t in range(rows.shape[0]):
        row, target = rows[t], table[places[t]]
        for c in range(row.size):
            target[c] += row[c]
