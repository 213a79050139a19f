"""
The contract of lowering: at every site, equal inputs give equal codes in fake and int8, and outputs that agree to rounding.

Each site of the int8 graph is fed what the same site of the fake graph was fed. Both outputs are compared with the product of
the fake operands, which are float32, in exact arithmetic. With u = 2^-24, K terms and M = sum_k |x||w| + |bias|:

    fake:  |y - exact| <= (K + 2) u M                    K products and K additions in any order
    int8:  |y - exact| <= 2 u M                          each operand was rounded to float32 once, integers are not
                          + 5 u (|scale * acc| + |b|)    acc to float32, scale, their product, the folded bias b, the sum

Scales of tokens are one more product, while the scale of the weight and the bias are as they were.
The second does not grow with K. Twin-uniform operands have two accumulators, whose terms and whose sum make up
|scale * acc|; products of two activations have no bias. A bfloat16 result is rounded once more.

Float8 codes are floats, whose products are exact in float32 and whose sums are rounded as those of floats are:

    float8:  |y - exact| <= 2 u M + (K + 5) u (sum_k |scale c w| + |b|)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

import fxquant
from fxquant import QuantConfig
from fxquant.graph.meta import record_of
from fxquant.lowering.quantized import is_quantized
from fxquant.ops import (
    dequantize_log2,
    float8_linear,
    int8_linear,
    int8_linear_twin,
    int8_matmul,
    int8_matmul_twin,
    log_int_softmax,
    quantize,
    quantize_adalog,
    quantize_float8,
    quantize_float8_tokens,
    quantize_log2,
    quantize_tokens,
    quantize_twin,
)
from tests.support.unfused import lower

U = 2.0**-24
PRODUCTS = (F.linear, F.conv2d, torch.matmul)
ON_CODES = (int8_linear, int8_linear_twin, int8_matmul, int8_matmul_twin, float8_linear)
QUANTIZERS = (
    *(quantize, quantize_adalog, quantize_tokens, quantize_twin, quantize_log2, log_int_softmax),
    *(quantize_float8, quantize_float8_tokens),
)


class Recorder(fx.Interpreter):
    """Run a graph and keep every value; what quantises reads what `fed` says for its name instead of its own input."""

    def __init__(self, gm: fx.GraphModule, fed: dict[str, Tensor] | None = None) -> None:
        super().__init__(gm, garbage_collect_values=False)
        self.fed = fed or {}

    def run_node(self, n: fx.Node) -> Any:
        if n.target in QUANTIZERS and n.name in self.fed:
            function: Any = n.target
            return function(self.fed[n.name], *self.fetch_args_kwargs_from_env(n)[0][1:])
        return super().run_node(n)


@dataclass(frozen=True)
class Site:
    """One product in both graphs, with the values around it."""

    fake: fx.Node
    int8: fx.Node
    fake_values: dict[fx.Node, Any]
    int8_values: dict[fx.Node, Any]

    def check(self) -> None:
        """Compare both outputs with exact arithmetic."""
        x, w, bias = (_double(self.fake_values, a) for a in (*self.fake.args, None)[:3])
        assert x is not None
        assert w is not None
        exact, magnitude = self._apply(x, w, bias), self._apply(x.abs(), w.abs(), None if bias is None else bias.abs())
        simulated = self.fake_values[self.fake].double()
        terms = x.shape[-1] if self.fake.target is torch.matmul else w[0].numel()
        assert bool(((simulated - exact).abs() <= (terms + 2) * U * magnitude).all())
        computed = self.int8_values[self.int8]
        roundings = terms + 5 if self.int8.target is float8_linear else 5
        tolerance = roundings * U * self._int8_magnitude() + 2 * U * self._channels_last(magnitude)
        tolerance = tolerance + torch.finfo(computed.dtype).eps * computed.double().abs()
        assert bool(((computed.double() - self._channels_last(exact)).abs() <= tolerance).all())

    def _apply(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        function: Any = self.fake.target
        if function is torch.matmul:
            return torch.matmul(x, w)
        return function(x, w, bias, *self.fake.args[3:])  # type: ignore[no-any-return]

    def _channels_last(self, y: Tensor) -> Tensor:
        return y.permute(0, 2, 3, 1) if self.fake.target is F.conv2d else y

    def _int8_magnitude(self) -> Tensor:
        """Return ``|scale * acc| + |b|``, of float8 the sum of the terms' sizes; integers below 2^53 are exact in float64."""
        values = [_double(self.int8_values, a) for a in self.int8.args]
        zero = torch.zeros((), dtype=torch.float64)
        codes, other, scale, *rest = (zero if v is None else v for v in values)
        if self.int8.target is int8_matmul:
            return (((codes - rest[0]) @ (other - rest[1])) * scale).abs()
        if self.int8.target is int8_matmul_twin:
            low, other = rest[0], other - rest[1]
            return (codes.clamp(min=0) @ other * scale).abs() + (codes.clamp(max=0) @ other * low).abs()
        weight = other[: scale.shape[0], : codes.shape[-1]].T
        if self.int8.target is float8_linear:
            by_row = rest[2] if len(rest) > 2 else 1.0
            return codes.abs() @ weight.abs() * scale * by_row + rest[0].abs()
        if self.int8.target is int8_linear_twin:
            low, bias = rest[:2]
            return (codes.clamp(min=0) @ weight * scale).abs() + (codes.clamp(max=0) @ weight * low).abs() + bias.abs()
        bias, zero_w, zero_x = rest[:3]
        acc = codes @ weight - (codes - zero_x).sum(-1, keepdim=True) * zero_w
        if len(rest) > 5:  # scales and zero points of rows
            acc, scale = acc - rest[6][..., None] * weight.sum(0), scale * rest[5][..., None]
        return (acc * scale).abs() + bias.abs()


def _double(values: dict[fx.Node, Any], argument: object) -> Tensor | None:
    value: Tensor | None = values[argument].double() if isinstance(argument, fx.Node) else None
    return value


def sites(prepared: fx.GraphModule, x: Tensor) -> list[Site]:
    """Run both graphs, check that all codes are equal, and pair the products."""
    fake = fxquant.convert(prepared, "fake")
    int8 = lower(fake)
    one = Recorder(fake)
    with torch.no_grad():
        one.run(x)
        quantizers = {n.name: n for n in fake.graph.nodes if n.target in QUANTIZERS}
        other = Recorder(int8, {name: one.env[n.args[0]] for name, n in quantizers.items()})
        other.run(x)
    quantizing = [n for n in int8.graph.nodes if n.target in QUANTIZERS]
    assert {n.name for n in quantizing} == set(quantizers)
    for node in quantizing:
        pairs = zip(tree_leaves(one.env[quantizers[node.name]]), tree_leaves(other.env[node]), strict=True)
        assert all(torch.equal(a.double(), b.double()) for a, b in pairs), f"codes differ at {node.name}"
    products = {_label(n): n for n in int8.graph.nodes if n.target in ON_CODES}
    simulated = [n for n in fake.graph.nodes if n.target in PRODUCTS and _simulated(n)]
    assert {_label(n) for n in simulated} == set(products)
    return [Site(n, products[_label(n)], one.env, other.env) for n in simulated]


def calibrated(model: nn.Module, config: QuantConfig, *batches: Tensor) -> fx.GraphModule:
    """Return `model`, prepared and calibrated on `batches`."""
    prepared = fxquant.prepare(model.eval(), config)
    return fxquant.calibrate(prepared, batches, progress=False)


def _label(node: fx.Node) -> str:
    record = record_of(node)
    assert record is not None
    return record.label


def _simulated(node: fx.Node) -> bool:
    # products of powers of two are made of shifts and stay as they are
    return all(is_quantized(a) and a.target is not dequantize_log2 for a in node.args[:2])  # type: ignore[union-attr]
