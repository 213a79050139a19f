"""`fold_noise` leaves nothing of the noise to be done at run time, or one sum that the quantisation does on the way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant import LayerSpec, PerChannel, QuantConfig, TensorSpec, TwinGELU
from fxquant.graph.attributes import get_tensor
from fxquant.graph.stages import Stage
from fxquant.ops import add_noise, denoise_bias
from fxquant.passes.add_noise import add_noise as insert_noise
from fxquant.passes.correct_bias import correct_bias
from fxquant.passes.fold_noise import fold_noise
from fxquant.passes.quantize_operands import quantize_operands
from tests.support.check_pass import check_pass, check_unchanged, module_of, through
from tests.support.noisy import TOKENS, prepared, simulated

IMAGES = torch.randn(2, 3, 7, 6)


def targets(gm: fx.GraphModule) -> set[Any]:
    return {n.target for n in gm.graph.nodes}


def test_a_linear_layer() -> None:
    original = simulated(nn.Linear(4, 6))
    gm = check_pass(
        fold_noise,
        original,
        (TOKENS,),
        before="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            add_noise = add_noise(check_input, linear.input_noise)
            quantize = quantize(add_noise, linear.input_scale, linear.input_zero_point, 0, 255)
            dequantize = dequantize(quantize, linear.input_scale, linear.input_zero_point, 0, 255)
            dequantize_1 = dequantize(linear.weight_codes, linear.weight_scale, None, -128, 127, 0)
            denoise_bias = denoise_bias(bias, linear.input_noise, dequantize_1)
            linear = F.linear(dequantize, dequantize_1, denoise_bias)
            return linear
        """,
        after="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            quantize = quantize(check_input, linear.input_scale, linear.input_zero_point, 0, 255, None, linear.input_noise)
            dequantize = dequantize(quantize, linear.input_scale, linear.input_zero_point, 0, 255)
            dequantize_1 = dequantize(linear.weight_codes, linear.weight_scale, None, -128, 127, 0)
            linear = F.linear(dequantize, dequantize_1, linear.bias_denoised)
            return linear
        """,
        stage=Stage.LOWERED,
    )
    weight = get_tensor(gm, "linear.weight_codes").float() * get_tensor(gm, "linear.weight_scale")[:, None]
    expected = get_tensor(original, "bias") - weight @ get_tensor(gm, "linear.input_noise")
    torch.testing.assert_close(get_tensor(gm, "linear.bias_denoised"), expected)


def test_a_patch_convolution() -> None:
    check_pass(
        fold_noise,
        simulated(nn.Conv2d(3, 5, (3, 2), (3, 2), bias=False), IMAGES, noise=18),
        (IMAGES,),
        after="""
            (input)
            check_input = check_input(input, (None, 3, None, None), 'input')
            quantize = quantize(check_input, conv2d.input_scale, conv2d.input_zero_point, 0, 255, None, conv2d.input_noise)
            dequantize = dequantize(quantize, conv2d.input_scale, conv2d.input_zero_point, 0, 255)
            dequantize_1 = dequantize(conv2d.weight_codes, conv2d.weight_scale, None, -128, 127, 0)
            conv2d = F.conv2d(dequantize, dequantize_1, conv2d.bias_denoised, (3, 2), (0, 0), (1, 1))
            return conv2d
        """,
        stage=Stage.LOWERED,
    )


class Normed(nn.Module):
    """A layer behind a norm, which others may read as well."""

    def __init__(self, residual: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.fc, self.residual = nn.LayerNorm(4), nn.Linear(4, 4), residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        z: Tensor = self.fc(y)
        return z + y if self.residual else z


def test_behind_a_norm_the_noise_joins_its_bias() -> None:
    original = simulated(Normed())
    gm = check_pass(
        fold_noise,
        original,
        (TOKENS,),
        before="""
            (x)
            check_input = check_input(x, (None, None, 4), 'x')
            layer_norm = F.layer_norm(check_input, (4,), norm.weight, norm.bias)
            add_noise = add_noise(layer_norm, fc.input_noise)
            quantize = quantize(add_noise, fc.input_scale, fc.input_zero_point, 0, 255)
            dequantize = dequantize(quantize, fc.input_scale, fc.input_zero_point, 0, 255)
            dequantize_1 = dequantize(fc.weight_codes, fc.weight_scale, None, -128, 127, 0)
            denoise_bias = denoise_bias(fc.bias, fc.input_noise, dequantize_1)
            linear = F.linear(dequantize, dequantize_1, denoise_bias)
            return linear
        """,
        after="""
            (x)
            check_input = check_input(x, (None, None, 4), 'x')
            layer_norm = F.layer_norm(check_input, (4,), norm.weight, norm.bias_noisy)
            quantize = quantize(layer_norm, fc.input_scale, fc.input_zero_point, 0, 255)
            dequantize = dequantize(quantize, fc.input_scale, fc.input_zero_point, 0, 255)
            dequantize_1 = dequantize(fc.weight_codes, fc.weight_scale, None, -128, 127, 0)
            linear = F.linear(dequantize, dequantize_1, fc.bias_denoised)
            return linear
        """,
        stage=Stage.LOWERED,
        tolerance=1e-2,
    )
    expected = get_tensor(original, "norm.bias") + get_tensor(original, "fc.input_noise")
    assert torch.equal(get_tensor(gm, "norm.bias_noisy"), expected)


def test_behind_a_norm_that_others_read_it_joins_the_quantisation() -> None:
    check_pass(
        fold_noise,
        simulated(Normed(residual=True)),
        (TOKENS,),
        after="""
            (x)
            check_input = check_input(x, (None, None, 4), 'x')
            layer_norm = F.layer_norm(check_input, (4,), norm.weight, norm.bias)
            quantize = quantize(layer_norm, fc.input_scale, fc.input_zero_point, 0, 255, None, fc.input_noise)
            dequantize = dequantize(quantize, fc.input_scale, fc.input_zero_point, 0, 255)
            dequantize_1 = dequantize(fc.weight_codes, fc.weight_scale, None, -128, 127, 0)
            linear = F.linear(dequantize, dequantize_1, fc.bias_denoised)
            add = linear + layer_norm
            return add
        """,
        stage=Stage.LOWERED,
    )


def test_behind_gelu_too() -> None:
    check_pass(
        fold_noise,
        simulated(nn.Sequential(nn.GELU(), nn.Linear(4, 6))),
        (TOKENS,),
        after="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            gelu = F.gelu(check_input)
            quantize = quantize(gelu, 1.input_scale, 1.input_zero_point, 0, 255, None, 1.input_noise)
            dequantize = dequantize(quantize, 1.input_scale, 1.input_zero_point, 0, 255)
            dequantize_1 = dequantize(1.weight_codes, 1.weight_scale, None, -128, 127, 0)
            linear = F.linear(dequantize, dequantize_1, 1.bias_denoised)
            return linear
        """,
        stage=Stage.LOWERED,
    )


def test_a_twin_quantisation_takes_it_as_well() -> None:
    check_pass(
        fold_noise,
        simulated(nn.Sequential(nn.GELU(), nn.Linear(4, 6)), config=QuantConfig(LayerSpec(gelu=TwinGELU(6)))),
        (TOKENS,),
        after="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            gelu = F.gelu(check_input)
            quantize_twin = quantize_twin(gelu, 1.input_high, 1.input_low, 1.input_split, -31, 31, 1.input_noise)
            dequantize_twin = dequantize_twin(quantize_twin, 1.input_high, 1.input_low, 1.input_split, -31, 31)
            dequantize = dequantize(1.weight_codes, 1.weight_scale, None, -128, 127, 0)
            linear = F.linear(dequantize_twin, dequantize, 1.bias_denoised)
            return linear
        """,
        stage=Stage.LOWERED,
    )


def test_a_scale_per_channel_keeps_its_axis() -> None:
    config = QuantConfig(LayerSpec(activation=TensorSpec(granularity=PerChannel(-1))))
    gm = check_pass(
        fold_noise,
        simulated(nn.Linear(4, 6), config=config),
        (TOKENS,),
        after="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            quantize = quantize(check_input, linear.input_scale, linear.input_zero_point, 0, 255, -1, linear.input_noise)
            dequantize = dequantize(quantize, linear.input_scale, linear.input_zero_point, 0, 255, -1)
            dequantize_1 = dequantize(linear.weight_codes, linear.weight_scale, None, -128, 127, 0)
            linear = F.linear(dequantize, dequantize_1, linear.bias_denoised)
            return linear
        """,
        stage=Stage.LOWERED,
    )
    assert add_noise not in targets(gm)


def _two_layers(self: Any, x: Tensor) -> Tensor:
    y = F.layer_norm(x, (4,), self.gamma, self.beta)
    return F.linear(y, self.one) * F.linear(y, self.two, self.bias)


def test_layers_that_share_a_norm_share_what_is_folded() -> None:
    tensors = {name: torch.randn(4) for name in ("gamma", "beta", "bias")}
    module = module_of(_two_layers, one=torch.randn(4, 4), two=torch.randn(4, 4), **tensors)
    check_pass(
        fold_noise,
        simulated(module),
        (TOKENS,),
        after="""
            (x)
            check_input = check_input(x, (None, None, 4), 'x')
            layer_norm = F.layer_norm(check_input, (4,), gamma, beta_noisy)
            quantize = quantize(layer_norm, linear.input_scale, linear.input_zero_point, 0, 255)
            dequantize = dequantize(quantize, linear.input_scale, linear.input_zero_point, 0, 255)
            dequantize_1 = dequantize(linear.weight_codes, linear.weight_scale, None, -128, 127, 0)
            linear = F.linear(dequantize, dequantize_1, linear.bias_denoised)
            dequantize_2 = dequantize(linear_1.weight_codes, linear_1.weight_scale, None, -128, 127, 0)
            linear_1 = F.linear(dequantize, dequantize_2, linear_1.bias_denoised)
            mul = linear * linear_1
            return mul
        """,
        stage=Stage.LOWERED,
        tolerance=2e-2,
    )


def _plain_norm(self: Any, x: Tensor) -> Tensor:
    return F.linear(F.layer_norm(x, (4,)), self.weight)


def _norm_over_two_axes(self: Any, x: Tensor) -> Tensor:
    return F.linear(F.layer_norm(x, (5, 4), self.gamma, self.beta), self.weight)


def _run_time_norm(self: Any, x: Tensor) -> Tensor:
    return F.linear(F.layer_norm(x, (4,), self.weight[0], x[0, 0]), self.weight)


TWO_AXES = {"gamma": torch.randn(5, 4), "beta": torch.randn(5, 4)}


@pytest.mark.parametrize(
    ("forward", "tensors"),
    [(_plain_norm, {}), (_norm_over_two_axes, TWO_AXES), (_run_time_norm, {})],
    ids=["a norm without a bias", "a norm over two axes", "a bias computed at run time"],
)
def test_norms_that_cannot_take_it(forward: Any, tensors: dict[str, Tensor]) -> None:
    module = module_of(forward, weight=torch.randn(4, 4), **tensors)
    original = simulated(module)
    gm = fold_noise(simulated(module)).graph_module
    assert not {add_noise, denoise_bias} & targets(gm)
    (quantized,) = [n for n in gm.graph.nodes if n.name.startswith("quantize")]
    assert len(quantized.args) == 7
    with torch.no_grad():
        assert torch.equal(gm(TOKENS), original(TOKENS))


def test_in_a_bfloat16_model_it_joins_a_norm_that_is_float32() -> None:
    gm = fold_noise(simulated(Normed().bfloat16(), TOKENS.bfloat16())).graph_module
    assert not {add_noise, denoise_bias} & targets(gm)
    assert not any(len(n.args) == 7 for n in gm.graph.nodes)
    assert get_tensor(gm, "fc.bias_denoised").dtype is torch.float32


def test_a_bfloat16_norm_would_round_it() -> None:
    x = TOKENS.bfloat16()
    rounded = through(prepared(Normed().bfloat16(), x), correct_bias, insert_noise, quantize_operands)
    gm = fold_noise(rounded).graph_module
    assert not {add_noise, denoise_bias} & targets(gm)
    assert any(len(n.args) == 7 for n in gm.graph.nodes)


def _run_time_bias(self: Any, x: Tensor) -> Tensor:
    return F.linear(x, self.weight, x.mean((0, 1)))


def test_a_bias_computed_at_run_time_is_corrected_there() -> None:
    gm = fold_noise(simulated(module_of(_run_time_bias, weight=torch.randn(4, 4)))).graph_module
    assert denoise_bias in targets(gm)
    assert add_noise not in targets(gm)


@pytest.mark.parametrize("config", [None, QuantConfig(LayerSpec(activation=None))], ids=["no noise", "a float input"])
def test_leaves_what_has_no_noise(config: QuantConfig | None) -> None:
    check_unchanged(fold_noise, simulated(Normed(), config=config, noise=0), (TOKENS,), Stage.LOWERED)


def test_a_float_weight_keeps_its_correction() -> None:
    """Its product is not lowered, so that nothing asks for a constant bias."""
    config = QuantConfig(LayerSpec(weight=None))
    original, gm = simulated(nn.Linear(4, 6), config=config), fold_noise(simulated(nn.Linear(4, 6), config=config))
    assert denoise_bias in targets(gm.graph_module)
    assert original(TOKENS).shape == gm.graph_module(TOKENS).shape
