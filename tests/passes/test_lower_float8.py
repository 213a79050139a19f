"""`lower_float8` computes on e4m3 codes what `quantize_operands` simulates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import Float8, LayerSpec, PerChannel, PerToken, QuantConfig, TensorSpec
from fxquant.graph.attributes import get_tensor
from fxquant.graph.stages import Stage
from fxquant.passes.lower_float8 import lower_float8
from tests.support.check_pass import check_pass, check_unchanged

X = torch.randn(2, 20, 4, generator=torch.Generator().manual_seed(0))
WEIGHT = Float8(granularity=PerChannel(0))


def calibrated(module: nn.Module, layer: LayerSpec, x: Tensor) -> fx.GraphModule:
    return fxquant.calibrate(fxquant.prepare(module.eval(), QuantConfig(layer), x), [x], progress=False)


def simulated(module: nn.Module, layer: LayerSpec, x: Tensor = X) -> fx.GraphModule:
    return fxquant.convert(calibrated(module, layer, x), "fake")


def test_folds_both_scales_and_pads_the_weight() -> None:
    gm = check_pass(
        lower_float8,
        simulated(nn.Linear(4, 6), LayerSpec(WEIGHT, Float8())),
        (X,),
        before="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            quantize_float8 = quantize_float8(check_input, linear.input_scale)
            dequantize_float8 = dequantize_float8(quantize_float8, linear.input_scale)
            dequantize_float8_1 = dequantize_float8(linear.weight_codes, linear.weight_scale, 0)
            linear = F.linear(dequantize_float8, dequantize_float8_1, bias)
            return linear
        """,
        after="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            quantize_float8 = quantize_float8(check_input, linear.input_scale)
            float8_linear = float8_linear(quantize_float8, linear.weight_float8, linear.scale, linear.bias_float32, \
torch.float32)
            return float8_linear
        """,
        stage=Stage.LOWERED,
        tolerance=1e-6,
    )
    weight = get_tensor(gm, "linear.weight_float8")
    assert (weight.shape, weight.dtype) == ((16, 16), torch.float8_e4m3fn), "padded to what torch._scaled_mm asks for"
    assert not weight.float()[6:].any()
    assert not weight.float()[:, 4:].any()


def test_the_scale_of_a_token_goes_to_its_row_and_a_cast_into_the_product() -> None:
    check_pass(
        lower_float8,
        simulated(nn.Linear(4, 6).bfloat16(), LayerSpec(WEIGHT, Float8(granularity=PerToken())), X.bfloat16()),
        (X.bfloat16(),),
        after="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            quantize_float8_tokens = quantize_float8_tokens(check_input)
            getitem = quantize_float8_tokens[0]
            getitem_1 = quantize_float8_tokens[1]
            float8_linear = float8_linear(getitem, linear.weight_float8, linear.scale, linear.bias_float32_1, \
torch.bfloat16, getitem_1)
            return float8_linear
        """,
        stage=Stage.LOWERED,
        tolerance=1e-2,
    )


def test_a_convolution_is_a_product_of_patches_with_zeros_around_them() -> None:
    x = torch.randn(2, 3, 6, 6)
    check_pass(
        lower_float8,
        simulated(nn.Conv2d(3, 5, 2, 2, 1), LayerSpec(WEIGHT, Float8()), x),
        (x,),
        after="""
            (input)
            check_input = check_input(input, (None, 3, None, None), 'input')
            quantize_float8 = quantize_float8(check_input, conv2d.input_scale)
            extract_patches = extract_patches(quantize_float8, (2, 2), (2, 2), (1, 1), None, 127)
            float8_linear = float8_linear(extract_patches, conv2d.weight_float8, conv2d.scale, conv2d.bias_float32, \
torch.float32)
            permute = float8_linear.permute(0, 3, 1, 2)
            return permute
        """,
        stage=Stage.LOWERED,
        tolerance=1e-6,
    )


@pytest.mark.parametrize("layer", [LayerSpec(WEIGHT, TensorSpec()), LayerSpec(activation=Float8())])
def test_leaves_an_operand_of_integers_beside_one_of_float8(layer: LayerSpec) -> None:
    check_unchanged(lower_float8, simulated(nn.Linear(4, 6), layer), (X,), Stage.LOWERED)
    (record,) = fxquant.report(fxquant.convert(calibrated(nn.Linear(4, 6), layer, X)))
    assert record.codes is None
    assert record.reason == "simulated: e4m3 codes of one operand and integers of the other have no product"


def test_leaves_a_scale_per_channel_of_the_input() -> None:
    gm = simulated(nn.Linear(4, 6), LayerSpec(WEIGHT, Float8(granularity=PerChannel(-1))))
    check_unchanged(lower_float8, gm, (X,), Stage.LOWERED)
