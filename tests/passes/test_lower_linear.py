"""`lower_linear` computes on codes what `quantize_operands` simulates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import LayerSpec, PerChannel, PerToken, QuantConfig, TensorSpec, TwinGELU, TwinSoftmax
from fxquant.graph.attributes import get_tensor
from fxquant.graph.meta import record_of
from fxquant.graph.stages import Stage
from fxquant.ops import int8_linear
from fxquant.passes.lower_linear import lower_linear
from tests.support.check_pass import check_pass, check_unchanged, module_of

X = torch.randn(2, 20, 4)


def simulated(module: nn.Module, config: QuantConfig | None = None, x: Tensor = X) -> fx.GraphModule:
    prepared = fxquant.prepare(module.eval(), config or fxquant.recipe("minmax"))
    prepared(x)
    return fxquant.convert(prepared, "fake")


def test_folds_scales_zero_point_and_bias() -> None:
    gm = check_pass(
        lower_linear,
        simulated(nn.Linear(4, 6)),
        (X,),
        before="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            quantize = quantize(check_input, linear.input_scale, linear.input_zero_point, 0, 255)
            dequantize = dequantize(quantize, linear.input_scale, linear.input_zero_point, 0, 255)
            dequantize_1 = dequantize(linear.weight_codes, linear.weight_scale, None, -128, 127, 0)
            linear = F.linear(dequantize, dequantize_1, bias)
            return linear
        """,
        after="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            quantize = quantize(check_input, linear.input_scale, linear.input_zero_point, 0, 255)
            int8_linear = int8_linear(quantize, linear.weight_int8, linear.scale, linear.bias_folded, None, None, \
torch.float32, False)
            return int8_linear
        """,
        stage=Stage.LOWERED,
        tolerance=1e-6,
    )
    weight = get_tensor(gm, "linear.weight_int8")
    assert weight.shape == (8, 8), "padded to what torch._int_mm asks for"
    assert not weight[6:].any()
    assert not weight[:, 4:].any()
    (product,) = [n for n in gm.graph.nodes if n.target is int8_linear]
    assert record_of(product) is not None


def test_an_affine_weight_brings_the_sums_of_the_input() -> None:
    config = QuantConfig(LayerSpec(weight=TensorSpec(granularity=PerChannel(0))))
    check_pass(
        lower_linear,
        simulated(nn.Linear(4, 8, bias=False), config),
        (X,),
        after="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            quantize = quantize(check_input, linear.input_scale, linear.input_zero_point, 0, 255)
            int8_linear = int8_linear(quantize, linear.weight_int8, linear.scale, linear.bias_folded, \
linear.weight_sum_zero_point, linear.input_sum_zero_point, torch.float32, False)
            return int8_linear
        """,
        stage=Stage.LOWERED,
        tolerance=1e-6,
    )


def test_a_twin_input_has_two_scales() -> None:
    gm = check_pass(
        lower_linear,
        simulated(nn.Sequential(nn.GELU(), nn.Linear(4, 6)), QuantConfig(LayerSpec(gelu=TwinGELU()))),
        (X,),
        before="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            gelu = F.gelu(check_input)
            quantize_twin = quantize_twin(gelu, 1.input_high, 1.input_low, 1.input_split, -127, 127)
            dequantize_twin = dequantize_twin(quantize_twin, 1.input_high, 1.input_low, 1.input_split, -127, 127)
            dequantize = dequantize(1.weight_codes, 1.weight_scale, None, -128, 127, 0)
            linear = F.linear(dequantize_twin, dequantize, 1.bias)
            return linear
        """,
        after="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            gelu = F.gelu(check_input)
            quantize_twin = quantize_twin(gelu, 1.input_high, 1.input_low, 1.input_split, -127, 127)
            int8_linear_twin = int8_linear_twin(quantize_twin, 1.weight_int8, 1.scale_high, 1.scale_low, 1.bias_folded, \
torch.float32, False)
            return int8_linear_twin
        """,
        stage=Stage.LOWERED,
        tolerance=1e-6,
    )
    high, low = get_tensor(gm, "1.scale_high"), get_tensor(gm, "1.scale_low")
    ratio = get_tensor(gm, "1.input_high") / get_tensor(gm, "1.input_low")
    torch.testing.assert_close(high / low, ratio.expand(6))


def test_a_twin_product_takes_over_the_cast_to_the_model_dtype() -> None:
    x = X.bfloat16()
    model = nn.Sequential(nn.Softmax(-1), nn.Linear(4, 6, bias=False)).bfloat16()
    check_pass(
        lower_linear,
        simulated(model, QuantConfig(LayerSpec(softmax=TwinSoftmax(4))), x),
        (x,),
        after="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            softmax = F.softmax(check_input, -1)
            quantize_twin = quantize_twin(softmax, 1.input_high, 1.input_low, 1.input_split, -7, 7)
            int8_linear_twin = int8_linear_twin(quantize_twin, 1.weight_int8, 1.scale_high, 1.scale_low, 1.bias_folded, \
torch.bfloat16, False)
            return int8_linear_twin
        """,
        stage=Stage.LOWERED,
        tolerance=1e-2,
    )


def test_the_product_takes_over_the_cast_to_the_model_dtype() -> None:
    x = X.bfloat16()
    check_pass(
        lower_linear,
        simulated(nn.Linear(4, 6).bfloat16(), None, x),
        (x,),
        after="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            quantize = quantize(check_input, linear.input_scale, linear.input_zero_point, 0, 255)
            int8_linear = int8_linear(quantize, linear.weight_int8, linear.scale, linear.bias_folded, None, None, \
torch.bfloat16, False)
            return int8_linear
        """,
        stage=Stage.LOWERED,
        tolerance=1e-2,
    )


def test_a_second_cast_does_not_undo_the_rounding_of_the_first() -> None:
    module = module_of(lambda self, x: F.linear(x, self.weight).to(torch.float32), weight=torch.randn(6, 4))
    lowered = lower_linear(simulated(module.bfloat16(), None, X.bfloat16())).graph_module
    output = lowered(X.bfloat16())
    assert output.dtype is torch.float32
    assert torch.equal(output, output.bfloat16().float())


def test_a_cast_that_others_do_not_want_stays() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        y = F.linear(x, self.weight)
        return y.to(torch.float64), y

    check_pass(
        lower_linear,
        simulated(module_of(forward, weight=torch.randn(4, 4))),
        (X,),
        after="""
            (x)
            check_input = check_input(x, (None, None, 4), 'x')
            quantize = quantize(check_input, linear.input_scale, linear.input_zero_point, 0, 255)
            int8_linear = int8_linear(quantize, linear.weight_int8, linear.scale, linear.bias_folded, None, None, \
torch.float32, False)
            to = int8_linear.to(torch.float64)
            return (to, int8_linear)
        """,
        stage=Stage.LOWERED,
        tolerance=1e-6,
    )


@pytest.mark.parametrize(("tokens", "pad"), [(1, True), (16, True), (17, False)])
def test_pads_rows_where_one_image_gives_too_few(tokens: int, pad: bool) -> None:
    x = torch.randn(3, tokens, 4)
    gm = lower_linear(simulated(nn.Linear(4, 6), None, x)).graph_module
    (product,) = [n for n in gm.graph.nodes if n.target is int8_linear]
    assert product.args[-1] is pad


def _run_time_weight(self: Any, x: Tensor) -> Tensor:
    return F.linear(x, x[0] * self.weight)


def _run_time_bias(self: Any, x: Tensor) -> Tensor:
    return F.linear(x, self.weight, x.mean((0, 1)))


def _linear(self: Any, x: Tensor) -> Tensor:
    return F.linear(x, self.weight)


def _behind_softmax(self: Any, x: Tensor) -> Tensor:
    return F.linear(F.softmax(x, -1), self.weight)


WEIGHT = TensorSpec(signed=True, symmetric=True)
NEAR_MISSES = {
    "a weight computed at run time": (_run_time_weight, LayerSpec()),
    "a bias computed at run time": (_run_time_bias, LayerSpec()),
    "a float input": (_linear, LayerSpec(activation=None)),
    "a float weight": (_linear, LayerSpec(weight=None)),
    "an input scale per channel": (_linear, LayerSpec(activation=TensorSpec(granularity=PerChannel(-1)))),
    "a twin input and an affine weight": (
        _behind_softmax,
        LayerSpec(TensorSpec(signed=True, granularity=PerChannel(0)), softmax=TwinSoftmax()),
    ),
    "twin probabilities as published": (_behind_softmax, LayerSpec(softmax=TwinSoftmax(published=True))),
    "a weight scale per input channel": (_linear, LayerSpec(weight=TensorSpec(signed=True, granularity=PerChannel(1)))),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_leaves_what_has_no_integer_form(name: str) -> None:
    forward, layer = NEAR_MISSES[name]
    gm = simulated(module_of(forward, weight=torch.randn(4, 4)), QuantConfig(layer), torch.randn(4, 4, 4))
    check_unchanged(lower_linear, gm, (torch.randn(4, 4, 4),), Stage.LOWERED)


TOKENS = TensorSpec(signed=True, symmetric=True, granularity=PerToken())


def test_the_scale_of_a_token_goes_to_its_row_of_the_product() -> None:
    gm = check_pass(
        lower_linear,
        simulated(nn.Linear(4, 8), QuantConfig(LayerSpec(activation=TOKENS))),
        (X,),
        after="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            quantize_tokens = quantize_tokens(check_input, True, -128, 127)
            getitem = quantize_tokens[0]
            getitem_1 = quantize_tokens[1]
            getitem_2 = quantize_tokens[2]
            int8_linear = int8_linear(getitem, linear.weight_int8, linear.scale, linear.bias_folded, None, None, \
torch.float32, False, getitem_1, getitem_2)
            return int8_linear
        """,
        stage=Stage.LOWERED,
        tolerance=1e-6,
    )
    assert get_tensor(gm, "linear.scale").shape == (8,)


def test_an_affine_weight_beside_a_scale_per_token_stays_simulated() -> None:
    config = QuantConfig(LayerSpec(TensorSpec(granularity=PerChannel(0)), TOKENS))
    gm = simulated(nn.Linear(4, 8), config)
    check_unchanged(lower_linear, gm, (X,), stage=Stage.LOWERED)
    (record,) = fxquant.report(lower_linear(gm).graph_module)
    assert not record.int8
