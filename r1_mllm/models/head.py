# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of given tokens, block by block, so that [S, V] never exists at once, forward or backward.

Shape letters: S scored tokens, C hidden size, V vocabulary.
"""

from __future__ import annotations

import paddle
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from . import host, mkl

BLOCK_ELEMENTS = 1 << 23
"""Logits per block (32 MB in float32); the block before the last gradient is computed anew in the backward pass."""

SMALL = 1e-20
"""Below this a probability from the CPU's softmax is not exact (it clamps exponents at -64)."""


def _blocks(num_rows: int, vocab: int) -> list[tuple[int, int]]:
    step = max(1, BLOCK_ELEMENTS // vocab)
    return [(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]


def _probabilities(hidden, weight, temperature):
    """Return logits [S, V] float32 over temperature, and their softmax."""
    logits = paddle.matmul(hidden, weight, transpose_y=True)
    if logits.dtype != paddle.float32:
        logits = logits.astype("float32")
    if temperature != 1.0:
        logits = logits * (1.0 / temperature)
    return logits, F.softmax(logits)


def _logp(logits, probs, targets):
    """Log-probability [S] of targets [S, 1]; falls back to logsumexp where softmax has lost the small number."""
    chosen = paddle.take_along_axis(probs, targets, 1).reshape([-1])
    if bool((chosen < SMALL).any()):
        picked = paddle.take_along_axis(logits, targets, 1).reshape([-1])
        return picked - paddle.logsumexp(logits, axis=1)
    return paddle.log(chosen)


def _distribution(hidden, weight, targets, temperature):
    """Return the probabilities [S, V] and the log-probability [S] of targets [S, 1]."""
    if not host.serves(hidden):
        logits, probs = _probabilities(hidden, weight, temperature)
        return probs, _logp(logits, probs, targets)
    rows = hidden if temperature == 1.0 else hidden * (1.0 / temperature)
    logits, logp = paddle.matmul(rows, weight, transpose_y=True), paddle.empty([hidden.shape[0]])
    host.loops().pick_logp(host.array(logits), targets.numpy().reshape([-1]), host.array(logp))
    return logits, logp


def _slope(probs, targets, grad):
    """Turn probs [S, V] into the gradient of the logits, from grad [S] of the targets' log-probabilities."""
    if host.serves(probs):
        host.loops().pick_logp_gradient(host.array(probs), targets.numpy().reshape([-1]), host.array(grad))
        return probs
    scale = grad.reshape([-1, 1])
    return probs.multiply_(-scale).put_along_axis_(targets, scale, 1, reduce="add")


def _with_product(total: paddle.Tensor | None, slope: paddle.Tensor, rows: paddle.Tensor) -> paddle.Tensor:
    """Add slope [S, V] turned @ rows [S, C] to a total [V, C]; None: nothing yet.  Twice [V, C] is much memory."""
    if total is None:
        return paddle.matmul(slope, rows, transpose_x=True)
    if not host.serves(slope):
        return total.add_(paddle.matmul(slope, rows, transpose_x=True))
    mkl.product(mkl.whole(slope), mkl.whole(rows.contiguous()), mkl.whole(total), transpose_x=True, add=True)
    return total


class _TokenLogp(PyLayer):
    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature):
        blocks = _blocks(hidden.shape[0], weight.shape[0])
        logps, probs = [], None
        for start, end in blocks:
            probs, logp = _distribution(hidden[start:end], weight, targets[start:end], temperature)
            logps.append(logp)
        kept = probs if len(blocks) == 1 else None  # one block: keep it, there is nothing to save
        ctx.save_for_backward(hidden, weight, targets)
        ctx.probs, ctx.temperature, ctx.blocks = kept, temperature, blocks
        return paddle.concat(logps) if len(logps) > 1 else logps[0]

    @staticmethod
    def backward(ctx, grad):
        hidden, weight, targets = ctx.saved_tensor()
        wants_weight = not weight.stop_gradient
        grads_hidden, grad_weight = [], None
        for start, end in ctx.blocks:
            rows = hidden[start:end]
            chosen, probs = targets[start:end], ctx.probs
            if probs is None:
                probs = _distribution(rows, weight, chosen, ctx.temperature)[0]
            slope = _slope(probs, chosen, grad[start:end] * (1.0 / ctx.temperature)).astype(rows.dtype)
            grads_hidden.append(paddle.matmul(slope, weight))
            if wants_weight:
                grad_weight = _with_product(grad_weight, slope, rows)
        ctx.probs = None
        grad_hidden = paddle.concat(grads_hidden) if len(grads_hidden) > 1 else grads_hidden[0]
        return grad_hidden, grad_weight, None


def token_logp(
    hidden: paddle.Tensor, weight: paddle.Tensor, targets: paddle.Tensor, temperature: float = 1.0
) -> paddle.Tensor:
    """Log-probability of each target under softmax(hidden @ weight.T / temperature), in nats.

    Args:
        hidden: [S, C]; row s predicts targets[s].  weight: [V, C].  targets: [S] int64.
        temperature: the sampler's; 1.0 for supervised loss.

    Returns:
        [S] float32.
    """
    return _TokenLogp.apply(hidden, weight, targets.reshape([-1, 1]), temperature)


@paddle.no_grad()
def token_logp_and_entropy(hidden, weight, targets, temperature: float = 1.0) -> tuple[paddle.Tensor, paddle.Tensor]:
    """As `token_logp`, with the entropy [S] float32 nats of each distribution; no gradients."""
    logps, entropies = [], []
    for start, end in _blocks(hidden.shape[0], weight.shape[0]):
        logits, probs = _probabilities(hidden[start:end], weight, temperature)
        logps.append(_logp(logits, probs, targets[start:end].reshape([-1, 1])))
        entropies.append(paddle.logsumexp(logits, axis=1) - (probs * logits).sum(1))
    return paddle.concat(logps), paddle.concat(entropies)
