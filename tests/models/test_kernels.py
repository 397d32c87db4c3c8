# SPDX-License-Identifier: Apache-2.0
"""The fast spellings agree with the public ones, values and gradients."""

import numpy as np
import paddle
import pytest

from r1_mllm.models import kernels


def leaf(array):
    return paddle.to_tensor(array.astype(np.float32), stop_gradient=False)


def gradients(function, *arrays):
    """Output and gradients of sum(output * fixed weights)."""
    leaves = [leaf(array) for array in arrays]
    out = function(*leaves)
    weights = np.cos(np.arange(out.size, dtype=np.float32)).reshape(out.shape)
    (out * paddle.to_tensor(weights)).sum().backward()
    return [out.numpy(), *(tensor.grad.numpy() for tensor in leaves)]


RNG = np.random.default_rng(3)
X, WEIGHT, BIAS = RNG.normal(size=(5, 6)), RNG.normal(size=(6, 4)), RNG.normal(size=4)

MLP = RNG.normal(size=(6, 8)), RNG.normal(size=(4, 6)), RNG.normal(size=(5, 6))


def plain_mlp(x, gate_up, down, residual, bias=None):
    both = paddle.matmul(x, gate_up)
    both = both if bias is None else both + bias
    return residual + paddle.matmul(paddle.nn.functional.silu(both[:, :4]) * both[:, 4:], down)


CASES = {
    "linear": (kernels.linear, lambda x, w, b: paddle.matmul(x, w) + b, (X, WEIGHT, BIAS)),
    "linear_residual": (kernels.linear, lambda x, w, r: paddle.matmul(x, w) + r, (X, WEIGHT, RNG.normal(size=(5, 4)))),
    "rms_norm": (
        lambda x, w: kernels.rms_norm(x, w, 1e-2),
        lambda x, w: kernels._rms_norm_plain(x, w, 1e-2),
        (X, RNG.normal(size=6)),
    ),
    "gated_mlp": (kernels.gated_mlp, plain_mlp, (X, *MLP)),
    "gated_mlp_bias": (kernels.gated_mlp, plain_mlp, (X, *MLP, RNG.normal(size=8))),
}


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_equals_its_public_spelling(name):
    fast, public, arrays = CASES[name]
    for got, want in zip(gradients(fast, *arrays), gradients(public, *arrays), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5, rtol=1e-4)


def test_rms_norm_by_hand():
    # root mean square of (3, 4) is sqrt(12.5)
    x, weight = paddle.to_tensor([[3.0, 4.0]]), paddle.to_tensor([1.0, 10.0])
    np.testing.assert_allclose(kernels.rms_norm(x, weight, 0.0).numpy(), [[3 / 12.5**0.5, 40 / 12.5**0.5]], rtol=1e-6)


@pytest.mark.parametrize("frozen", ["x", "weight"])
def test_rms_norm_gives_only_the_gradients_asked_for(frozen):
    x, weight = leaf(X), leaf(RNG.normal(size=6))
    (x if frozen == "x" else weight).stop_gradient = True
    kernels.rms_norm(x, weight, 1e-6).sum().backward()
    assert (x.grad is None) == (frozen == "x")
    assert (weight.grad is None) == (frozen == "weight")
