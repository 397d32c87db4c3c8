# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of given tokens, block by block, so that [S, V] never exists at once, forward or backward.

Where MKL is at hand (mkl.py) a block is kept as plain powers of its logits with one sum per row, and everything else
rides in products with [S, C] rows; a softmax and its gradient would be six passes more over [S, V].

Shape letters: S scored tokens, C hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import paddle
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from . import mkl

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


@dataclass
class _Block:
    """A block's distributions: rows of `weights` [S, V] sum to `sums` [S, 1]; None stands for ones."""

    weights: paddle.Tensor
    sums: paddle.Tensor | None


def _block(hidden, weight, targets, temperature) -> tuple[_Block, paddle.Tensor]:
    """Return the distributions and the log-probability [S] of targets [S, 1]."""
    if mkl.serves(hidden):
        rows = hidden if temperature == 1.0 else hidden * (1.0 / temperature)
        powers = mkl.power_(paddle.matmul(rows, weight, transpose_y=True))
        sums = paddle.matmul(powers, paddle.ones([weight.shape[0], 1]))
        if mkl.are_sure(sums):
            chosen = rows * paddle.gather(weight, targets.reshape([-1]))
            picked = paddle.matmul(chosen, paddle.ones([weight.shape[1], 1]))
            return _Block(powers, sums), (picked - paddle.log(sums)).reshape([-1])
    logits, probs = _probabilities(hidden, weight, temperature)
    return _Block(probs, None), _logp(logits, probs, targets)


def _block_gradient(block: _Block, grad, hidden, weight, targets, wants_weight: bool):
    """Turn grad [S, 1], the gradient of logp over the temperature, into those of hidden and weight (or None).

    d logp / d logits = onehot - weights / sums = -(weights - sums * onehot) / sums.
    """
    if block.sums is None:
        scale, ones = -grad, paddle.ones_like(grad)
    else:
        scale, ones = -grad / block.sums, block.sums
    slope = block.weights.put_along_axis_(targets, -ones, 1, reduce="add")
    slope = slope if slope.dtype == hidden.dtype else slope.astype(hidden.dtype)
    scale = scale.astype(hidden.dtype)
    grad_hidden = paddle.matmul(slope, weight).multiply_(scale)
    return grad_hidden, paddle.matmul(slope, hidden * scale, transpose_x=True) if wants_weight else None


class _TokenLogp(PyLayer):
    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature):
        blocks = _blocks(hidden.shape[0], weight.shape[0])
        logps, block = [], None
        for start, end in blocks:
            block, logp = _block(hidden[start:end], weight, targets[start:end], temperature)
            logps.append(logp)
        ctx.save_for_backward(hidden, weight, targets)
        ctx.block = block if len(blocks) == 1 else None  # one block: keep it, there is nothing to save
        ctx.temperature, ctx.blocks = temperature, blocks
        return paddle.concat(logps) if len(logps) > 1 else logps[0]

    @staticmethod
    def backward(ctx, grad):
        hidden, weight, targets = ctx.saved_tensor()
        grad = (grad * (1.0 / ctx.temperature)).reshape([-1, 1])
        grads_hidden, grad_weight = [], None
        for start, end in ctx.blocks:
            rows, chosen = hidden[start:end], targets[start:end]
            block = ctx.block or _block(rows, weight, chosen, ctx.temperature)[0]
            found, part = _block_gradient(block, grad[start:end], rows, weight, chosen, not weight.stop_gradient)
            grads_hidden.append(found)
            if part is not None:
                grad_weight = part if grad_weight is None else grad_weight.add_(part)
        ctx.block = None
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
