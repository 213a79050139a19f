"""`lower_convolution` computes convolutions as products of patches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import LayerSpec, PerChannel, QuantConfig, TensorSpec, TwinGELU
from fxquant.graph.attributes import get_tensor
from fxquant.graph.stages import Stage
from fxquant.passes.lower_convolution import lower_convolution
from tests.support.check_pass import check_pass, check_unchanged, module_of

X = torch.randn(2, 3, 8, 8)


def simulated(module: nn.Module, config: QuantConfig | None = None, x: Tensor = X) -> fx.GraphModule:
    prepared = fxquant.prepare(module.eval(), config or fxquant.recipe("minmax"))
    prepared(x)
    return fxquant.convert(prepared, "fake")


def test_a_patch_embedding_is_a_product_of_patches() -> None:
    gm = check_pass(
        lower_convolution,
        simulated(nn.Conv2d(3, 6, kernel_size=(4, 2), stride=(4, 2))),
        (X,),
        before="""
            (input)
            check_input = check_input(input, (None, 3, None, None), 'input')
            quantize = quantize(check_input, conv2d.input_scale, conv2d.input_zero_point, 0, 255)
            dequantize = dequantize(quantize, conv2d.input_scale, conv2d.input_zero_point, 0, 255)
            dequantize_1 = dequantize(conv2d.weight_codes, conv2d.weight_scale, None, -128, 127, 0)
            conv2d = F.conv2d(dequantize, dequantize_1, bias, (4, 2), (0, 0), (1, 1))
            return conv2d
        """,
        after="""
            (input)
            check_input = check_input(input, (None, 3, None, None), 'input')
            quantize = quantize(check_input, conv2d.input_scale, conv2d.input_zero_point, 0, 255)
            extract_patches = extract_patches(quantize, (4, 2), (4, 2), (0, 0), conv2d.input_zero_point, 255)
            int8_linear = int8_linear(extract_patches, conv2d.weight_int8, conv2d.scale, conv2d.bias_folded, None, None, \
torch.float32, True)
            permute = int8_linear.permute(0, 3, 1, 2)
            return permute
        """,
        stage=Stage.LOWERED,
        tolerance=1e-6,
    )
    assert get_tensor(gm, "conv2d.weight_int8").shape == (8, 24)


def test_a_padded_convolution_of_overlapping_windows() -> None:
    config = QuantConfig(LayerSpec(weight=TensorSpec(6), activation=TensorSpec(8, signed=True)))
    check_pass(
        lower_convolution,
        simulated(nn.Conv2d(3, 5, 3, stride=2, padding=(1, 2), bias=False), config),
        (X,),
        after="""
            (input)
            check_input = check_input(input, (None, 3, None, None), 'input')
            quantize = quantize(check_input, conv2d.input_scale, conv2d.input_zero_point, -128, 127)
            extract_patches = extract_patches(quantize, (3, 3), (2, 2), (1, 2), conv2d.input_zero_point, 127)
            int8_linear = int8_linear(extract_patches, conv2d.weight_int8, conv2d.scale, conv2d.bias_folded, \
conv2d.weight_sum_zero_point, conv2d.input_sum_zero_point, torch.float32, False)
            permute = int8_linear.permute(0, 3, 1, 2)
            return permute
        """,
        stage=Stage.LOWERED,
        tolerance=1e-6,
    )


def test_the_product_takes_over_the_cast_to_the_model_dtype() -> None:
    x = X.bfloat16()
    check_pass(
        lower_convolution,
        simulated(nn.Conv2d(3, 6, 4, 4).bfloat16(), None, x),
        (x,),
        after="""
            (input)
            check_input = check_input(input, (None, 3, None, None), 'input')
            quantize = quantize(check_input, conv2d.input_scale, conv2d.input_zero_point, 0, 255)
            extract_patches = extract_patches(quantize, (4, 4), (4, 4), (0, 0), conv2d.input_zero_point, 255)
            int8_linear = int8_linear(extract_patches, conv2d.weight_int8, conv2d.scale, conv2d.bias_folded, None, None, \
torch.bfloat16, True)
            permute = int8_linear.permute(0, 3, 1, 2)
            return permute
        """,
        stage=Stage.LOWERED,
        tolerance=1e-2,
    )


@pytest.mark.parametrize("published", [False, True])
def test_twin_codes_are_padded_with_zero(published: bool) -> None:
    model = nn.Sequential(nn.GELU(), nn.Conv2d(3, 5, 3, stride=2, padding=(1, 2)))
    qmin = -128 if published else -127
    check_pass(
        lower_convolution,
        simulated(model, QuantConfig(LayerSpec(gelu=TwinGELU(published=published)))),
        (X,),
        after=f"""
            (input)
            check_input = check_input(input, (None, 3, None, None), 'input')
            gelu = F.gelu(check_input)
            quantize_twin = quantize_twin(gelu, 1.input_high, 1.input_low, 1.input_split, {qmin}, 127)
            extract_patches = extract_patches(quantize_twin, (3, 3), (2, 2), (1, 2), None, 127)
            int8_linear_twin = int8_linear_twin(extract_patches, 1.weight_int8, 1.scale_high, 1.scale_low, 1.bias_folded, \
torch.float32, False)
            permute = int8_linear_twin.permute(0, 3, 1, 2)
            return permute
        """,
        stage=Stage.LOWERED,
        tolerance=1e-6,
    )


def test_a_cast_stays_where_others_read_the_result() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        y = F.conv2d(x, self.weight)
        return y.to(torch.float64), y

    gm = lower_convolution(simulated(module_of(forward, weight=torch.randn(4, 3, 2, 2)))).graph_module
    cast, plain = gm(X)
    assert torch.equal(cast, plain.double())


@pytest.mark.parametrize("arguments", [(), (None, 2), (None, (2, 1), 1), (None, 1, (0, 3), 1, 1)])
def test_reads_stride_and_padding_in_every_form(arguments: Any) -> None:
    gm = simulated(module_of(lambda self, x: F.conv2d(x, self.weight, *arguments), weight=torch.randn(4, 3, 3, 2)))
    lowered = lower_convolution(gm).graph_module
    torch.testing.assert_close(lowered(X), gm(X))


def _run_time_weight(self: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, x[:, :, :2, :2] * self.weight)


def _grouped(self: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, self.weight[:3, :1].contiguous(), groups=3)


def _dilated(self: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, self.weight, dilation=2)


def _uneven_padding(self: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, self.weight, padding="same")


def _plain(self: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, self.weight)


NEAR_MISSES = {
    "a weight computed at run time": (_run_time_weight, LayerSpec()),
    "groups": (_grouped, LayerSpec()),
    "dilation": (_dilated, LayerSpec()),
    "padding that is larger on one side": (_uneven_padding, LayerSpec()),
    "a float input": (_plain, LayerSpec(activation=None)),
    "a float weight": (_plain, LayerSpec(weight=None)),
    "an input scale per channel": (_plain, LayerSpec(activation=TensorSpec(granularity=PerChannel(1)))),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_leaves_what_is_not_one_product(name: str) -> None:
    forward, layer = NEAR_MISSES[name]
    gm = simulated(module_of(forward, weight=torch.randn(4, 3, 2, 2)), QuantConfig(layer), torch.randn(4, 3, 8, 8))
    check_unchanged(lower_convolution, gm, (torch.randn(4, 3, 8, 8),), Stage.LOWERED)


def test_leaves_a_lone_image() -> None:
    gm = simulated(nn.Conv2d(3, 4, 2), None, X[0])
    check_unchanged(lower_convolution, gm, (X[0],), Stage.LOWERED)
    assert fxquant.report(gm).coverage == 0
