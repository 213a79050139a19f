"""What an int8 product needs: the epilogue that scales, zero points and bias fold into."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import LayerSpec, PerChannel, QuantConfig, TensorSpec, TwinGELU, TwinSoftmax
from fxquant.graph.attributes import tensor_of
from fxquant.lowering.epilogue import Epilogue, fold_epilogue
from fxquant.lowering.obstacles import obstacle
from fxquant.lowering.quantized import quantized
from fxquant.ops import dequantize
from tests.support.check_pass import module_of

X = torch.randn(5, 6)
UNSIGNED = TensorSpec()
SIGNED = TensorSpec(signed=True, symmetric=True)


def product(layer: LayerSpec, bias: bool = True) -> fx.Node:
    """Return the simulated product of a linear layer ``(B, 6) -> (B, 4)``."""
    torch.manual_seed(0)
    prepared = fxquant.prepare(nn.Linear(6, 4, bias).eval(), QuantConfig(layer))
    prepared(X)
    gm = fxquant.convert(prepared, "fake")
    return next(n for n in gm.graph.nodes if n.target is F.linear)


def epilogue(node: fx.Node) -> Epilogue:
    x, weight = quantized(node.args[0]), quantized(node.args[1])
    assert x is not None
    assert weight is not None
    return fold_epilogue(x, weight, node.args[2] if len(node.args) > 2 else None)


@pytest.mark.parametrize("weight", [UNSIGNED, SIGNED, TensorSpec(5)])
@pytest.mark.parametrize("activation", [UNSIGNED, SIGNED, TensorSpec(4)])
@pytest.mark.parametrize("bias", [False, True])
def test_scale_times_integers_plus_bias_is_the_simulated_product(
    weight: TensorSpec, activation: TensorSpec, bias: bool
) -> None:
    node = product(LayerSpec(weight, activation), bias)
    folded = epilogue(node)
    x = torch.randint(-128, 128, (5, 6)) if activation.bits == 8 else torch.randint(0, 16, (5, 6))
    values = dequantize(x.to(torch.int8), *(_constant(a) for a in node.args[0].args[1:]))  # type: ignore[union-attr]
    acc = x @ folded.weight[:4, :6].long().T
    if folded.weight_zero_point is not None:
        zero = 0 if folded.input_zero_point is None else folded.input_zero_point
        acc = acc - (x - zero).sum(1, keepdim=True) * folded.weight_zero_point
    weights = dequantize(*(_constant(a) for a in node.args[1].args))  # type: ignore[union-attr]
    expected = F.linear(values, weights, tensor_of(node.args[2]) if bias else None)
    torch.testing.assert_close(acc * folded.scale + folded.bias, expected)


def _constant(argument: Any) -> Any:
    return tensor_of(argument) if isinstance(argument, fx.Node) else argument


def test_a_symmetric_signed_product_needs_no_correction() -> None:
    folded = epilogue(product(LayerSpec(SIGNED, SIGNED), bias=False))
    assert folded.weight_zero_point is None
    assert folded.input_zero_point is None
    assert not folded.bias.any()


def test_the_weight_is_padded_and_the_rest_is_not() -> None:
    folded = epilogue(product(LayerSpec()))
    assert folded.weight.shape == (8, 8)
    assert folded.weight.is_contiguous()
    assert (folded.scale.shape, folded.bias.shape) == ((4,), (4,))
    assert {folded.scale.dtype, folded.bias.dtype} == {torch.float32}


def test_only_dequantized_values_are_quantized() -> None:
    node = product(LayerSpec())
    found = quantized(node.args[0])
    assert found is not None
    assert (found.qmin, found.qmax, found.axis) == (0, 255, None)
    assert quantized(node) is None
    assert quantized(3) is None


def simulated(function: Any, layer: LayerSpec, dtype: torch.dtype = torch.float32, **weights: Tensor) -> fx.Node:
    """Return the simulated product of `function` ``(x, **weights)``."""
    x = X.to(dtype)
    prepared = fxquant.prepare(module_of(function, **weights).to(dtype), QuantConfig(layer, attention=True), x)
    prepared(x)
    gm = fxquant.convert(prepared, "fake")
    return next(n for n in gm.graph.nodes if n.target in (F.linear, torch.matmul))


def _matmul(self: Any, x: Tensor) -> Tensor:
    return x @ F.gelu(x).mT


def _linear(self: Any, x: Tensor) -> Tensor:
    return F.linear(F.softmax(x, -1), self.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (LayerSpec(), None),
        (LayerSpec(activation=None, gelu=UNSIGNED), "simulated: the left operand is float"),
        (LayerSpec(gelu=TwinGELU()), "simulated: a twin-uniform right operand has no int8 form"),
    ],
)
def test_says_why_a_product_of_activations_stays_simulated(
    layer: LayerSpec, reason: str | None, dtype: torch.dtype
) -> None:
    assert obstacle(simulated(_matmul, layer, dtype)) == reason


AFFINE = TensorSpec(signed=True, granularity=PerChannel(0))
BY_CHANNEL = TensorSpec(signed=True, symmetric=True, granularity=PerChannel(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (LayerSpec(), None),
        (LayerSpec(softmax=TwinSoftmax()), None),
        (LayerSpec(activation=None), "the weight alone is quantised, and multiplies floats"),
        (LayerSpec(weight=None), "simulated: the weight is float"),
        (
            LayerSpec(softmax=TwinSoftmax(published=True)),
            "simulated: the input is twin-uniform as published, which has no int8 form",
        ),
        (
            LayerSpec(AFFINE, softmax=TwinSoftmax()),
            "simulated: a twin-uniform input and a weight with zero points have no int8 form",
        ),
        (
            LayerSpec(BY_CHANNEL),
            "simulated: a weight scale along the input channels does not factor out of the product",
        ),
    ],
)
def test_says_why_a_linear_layer_stays_simulated(layer: LayerSpec, reason: str | None, dtype: torch.dtype) -> None:
    assert obstacle(simulated(_linear, layer, dtype, weight=torch.randn(4, 6))) == reason


def test_operands_of_unknown_rank_stay_simulated() -> None:
    node = simulated(_matmul, LayerSpec())
    del node.args[1].meta["val"]  # type: ignore[union-attr]
    assert obstacle(node) == "simulated: the shapes of the operands are unknown"


def test_an_operand_that_is_cast_stays_simulated() -> None:
    node = simulated(_matmul, LayerSpec())
    with node.graph.inserting_before(node):
        node.update_arg(0, node.graph.call_method("to", (node.args[0], torch.float64)))
    assert obstacle(node) == "simulated: an operand is cast after it was quantised"


def test_fused_attention_has_no_integer_form() -> None:
    gm = fxquant.trace(module_of(lambda self, x: F.scaled_dot_product_attention(x, x, x)))
    (node,) = [n for n in gm.graph.nodes if n.target is F.scaled_dot_product_attention]
    assert obstacle(node) == "simulated: fused attention has no int8 form"
