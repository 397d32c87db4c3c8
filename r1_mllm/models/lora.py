# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters (LoRA, arXiv:2106.09685): y = x W + (alpha / r) drop(x) A B, with W as it is.

Published linear modules (q_proj, gate_proj ...) are columns of fused weights here, so an adapter writes to its columns
of a fused output.  Dropout follows a seed that the training step sets for each pack, and happens only while it is set.

Shape letters: T tokens, C width in, N width of a published module, F width of the fused weight, R rank.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import paddle
from paddle import _C_ops, nn

from .adapter_spec import AdapterSpec
from .layers import Linear
from .names import Parameter, parameters
from .qwen_vl import QwenVL


class Adapter(nn.Layer):
    """One published module's factors: a [C, R] and b [R, N]."""

    def __init__(self, width_in: int, width_out: int, spec: AdapterSpec, dtype: str):
        super().__init__()
        self.scale = spec.alpha / spec.rank
        zeros = nn.initializer.Constant(0.0)
        self.a = self.create_parameter([width_in, spec.rank], dtype=dtype, default_initializer=zeros)
        self.b = self.create_parameter([spec.rank, width_out], dtype=dtype, default_initializer=zeros)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """x [T, C] -> [T, N]."""
        return paddle.matmul(paddle.matmul(x, self.a) * self.scale, self.b)

    def product(self) -> paddle.Tensor:
        """What is added to the module's weight, [C, N] float32."""
        return paddle.matmul(self.a.astype("float32") * self.scale, self.b.astype("float32"))


class FusedAdapter(nn.Layer):
    """The adapters of one fused weight: `modules` are the published modules side by side in it."""

    def __init__(self, modules: Sequence[tuple[str, int]], width_in: int, spec: AdapterSpec, dtype: str):
        """Args: modules: (published name, N) of all columns, with or without an adapter."""
        super().__init__()
        self.spec, self.dropout, self.seed = spec, 0.0, None
        self.modules = list(modules)
        self.parts = nn.LayerDict()
        for name, width in modules:
            if spec.chooses(name):
                self.parts[_leaf(name)] = Adapter(width_in, width, spec, dtype)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """x [T, C] -> [T, F], what is added to the fused output."""
        columns = []
        for name, width in self.modules:
            if _leaf(name) in self.parts:
                columns.append(self.parts[_leaf(name)](self._dropped(x, name)))
            else:
                columns.append(paddle.zeros([x.shape[0], width], x.dtype))
        return columns[0] if len(columns) == 1 else paddle.concat(columns, axis=1)

    def _dropped(self, x: paddle.Tensor, name: str) -> paddle.Tensor:
        if self.seed is None or not self.dropout:
            return x
        seed = zlib.crc32(f"{self.seed}/{name}".encode()) >> 1
        # The public dropout draws from the process's generator, which packs on several threads and recomputed blocks
        # would use in any order; the operator below takes a seed.
        return _C_ops.dropout(x, None, self.dropout, False, "upscale_in_train", seed, True)

    def merged(self, weight: paddle.Tensor) -> paddle.Tensor:
        """Give the fused weight [C, F] with the adapters in it, in its own dtype; summed in float32."""
        columns = []
        for name, width in self.modules:
            part = self.parts[_leaf(name)].product() if _leaf(name) in self.parts else None
            columns.append(paddle.zeros([weight.shape[0], width], "float32") if part is None else part)
        return (weight.astype("float32") + paddle.concat(columns, axis=1)).astype(weight.dtype)


def _leaf(module: str) -> str:
    return module.rpartition(".")[2]


def fused_modules(model: QwenVL) -> Iterator[tuple[Parameter, Linear]]:
    """List the linear layers with the parameter that says which published modules stand in them."""
    layers = dict(model.named_sublayers())
    for parameter in parameters(model.arch):
        if parameter.layout == "linear":
            yield parameter, layers[parameter.name.removesuffix(".weight")]


def attach(model: QwenVL, spec: AdapterSpec, dropout: float = 0.0, seed: int = 0, dtype: str | None = None) -> None:
    """Give a network adapters that change nothing yet, and freeze everything else.

    a is uniform within 1 / sqrt(C) as in peft, a function of seed and name; b is zero.  Their dtype is that of the
    weights unless given.

    Raises:
        ValueError: no module has such a name.
    """
    found = False
    for parameter in model.parameters():
        parameter.stop_gradient = True
    for parameter, layer in fused_modules(model):
        modules = [(name.removesuffix(".weight"), shape[0]) for name, shape in parameter.sources]
        chosen = [name for name, _ in modules if spec.chooses(name)]
        if not chosen:
            continue
        found = True
        layer.adapter = FusedAdapter(modules, parameter.shape[0], spec, dtype or layer.weight.dtype.name.lower())
        layer.adapter.dropout = dropout
        for name in chosen:
            _initialise(layer.adapter.parts[_leaf(name)], name, seed)
    if not found:
        names = {_leaf(name.removesuffix(".weight")) for p, _ in fused_modules(model) for name, _ in p.sources}
        raise ValueError(
            f"lora_target_modules {' '.join(spec.targets)} with lora_exclude_modules {spec.exclude} chooses no module; "
            f"linear modules end in {', '.join(sorted(names))}"
        )
    model.freeze_vision = not any("visual" in name for name, _ in model.named_parameters() if ".adapter." in name)


def _initialise(adapter: Adapter, name: str, seed: int) -> None:
    rng = np.random.Generator(np.random.Philox(key=[seed % 2**64, zlib.crc32(name.encode())]))
    bound = adapter.a.shape[0] ** -0.5
    values = rng.uniform(-bound, bound, adapter.a.shape).astype(np.float32)
    adapter.a.set_value(paddle.to_tensor(values).astype(adapter.a.dtype))


def adapters(model: QwenVL) -> Iterator[tuple[str, Adapter]]:
    """List the adapters by published module name, in the order of the layers."""
    for _, layer in fused_modules(model):
        if layer.adapter is not None:
            for name, _ in layer.adapter.modules:
                if _leaf(name) in layer.adapter.parts:
                    yield name, layer.adapter.parts[_leaf(name)]


def spec_of(model: QwenVL) -> AdapterSpec:
    """Give what the network's adapters were made from."""
    return next(layer.adapter.spec for _, layer in fused_modules(model) if layer.adapter is not None)


def attach_like(twin: QwenVL, model: QwenVL) -> None:
    """Give a twin adapters of the same shapes as the model's, without their values."""
    for (_, own), (_, shared) in zip(fused_modules(twin), fused_modules(model), strict=True):
        if shared.adapter is not None:
            wide = shared.weight.shape[0]
            like = shared.adapter
            own.adapter = FusedAdapter(like.modules, wide, like.spec, shared.weight.dtype.name.lower())
            own.adapter.dropout = like.dropout


@contextlib.contextmanager
def dropping(model: QwenVL, seed: int | None) -> Iterator[None]:
    """While entered, adapters drop inputs as `seed` says; backward passes belong inside, for they may recompute."""
    layers = [layer.adapter for _, layer in fused_modules(model) if layer.adapter is not None]
    try:
        for layer in layers:
            layer.seed = seed
        yield
    finally:
        for layer in layers:
            layer.seed = None


@paddle.no_grad()
def without_adapters(model: QwenVL) -> QwenVL:
    """Give the network as it was before `attach`: the same weights in memory, no adapters, no gradients."""
    before = paddle.get_default_dtype()
    paddle.set_default_dtype(model.dtype)
    try:
        with paddle.LazyGuard():  # parameters without memory of their own
            base = QwenVL(model.arch, model.attn_implementation, model.recompute)
    finally:
        paddle.set_default_dtype(before)
    shared = dict(model.named_parameters())
    for name, parameter in base.named_parameters():
        shared[name]._share_buffer_to(parameter)
        parameter.stop_gradient = True
    base.freeze_vision = True
    base.eval()
    return base


@paddle.no_grad()
def merge(model: QwenVL) -> None:
    """Add the adapters to the weights and drop them; every parameter can be trained afterwards."""
    for _, layer in fused_modules(model):
        if layer.adapter is not None:
            layer.weight.set_value(layer.adapter.merged(layer.weight))
            layer.adapter = None
    for parameter in model.parameters():
        parameter.stop_gradient = False
    model.set_freeze_vision(False)
