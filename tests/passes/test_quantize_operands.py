"""`quantize_operands` turns what observers found into codes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import (
    LayerSpec,
    PerChannel,
    PerToken,
    QuantConfig,
    RowGroups,
    TensorSpec,
    TwinGELU,
    TwinSoftmax,
)
from fxquant.graph.attributes import get_tensor
from fxquant.graph.stages import Stage
from fxquant.observers.base import Observer
from fxquant.passes.quantize_operands import quantize_operands
from tests.support.check_pass import check_pass, check_unchanged, module_of, render

X = torch.randn(2, 5, 4)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


def calibrated(module: nn.Module, config: QuantConfig | None = None, *inputs: Tensor) -> fx.GraphModule:
    prepared = fxquant.prepare(module.eval(), config or fxquant.recipe("minmax"))
    prepared(*(inputs or (X,)))
    return prepared


def test_quantises_inputs_and_stores_weights_as_codes() -> None:
    gm = check_pass(
        quantize_operands,
        calibrated(Mlp()),
        (X,),
        after="""
            (x)
            check_input = check_input(x, (None, None, 4), 'x')
            quantize = quantize(check_input, fc1.input_scale, fc1.input_zero_point, 0, 255)
            dequantize = dequantize(quantize, fc1.input_scale, fc1.input_zero_point, 0, 255)
            dequantize_1 = dequantize(fc1.weight_codes, fc1.weight_scale, None, -128, 127, 0)
            linear = F.linear(dequantize, dequantize_1, fc1.bias)
            gelu = F.gelu(linear)
            quantize_1 = quantize(gelu, fc2.input_scale, fc2.input_zero_point, 0, 255)
            dequantize_2 = dequantize(quantize_1, fc2.input_scale, fc2.input_zero_point, 0, 255)
            dequantize_3 = dequantize(fc2.weight_codes, fc2.weight_scale, None, -128, 127, 0)
            linear_1 = F.linear(dequantize_2, dequantize_3, fc2.bias)
            return linear_1
        """,
        stage=Stage.QUANTISED,
        tolerance=0.02,
    )
    assert get_tensor(gm, "fc1.weight_codes").dtype is torch.int8
    assert get_tensor(gm, "fc1.weight_scale").shape == (6,)
    assert get_tensor(gm, "fc1.input_scale").shape == ()


def test_codes_of_few_bits_and_groups_of_rows() -> None:
    weight = TensorSpec(3, signed=True, symmetric=True, granularity=RowGroups(2))
    config = QuantConfig(LayerSpec(weight, TensorSpec(4, signed=True, symmetric=True)))
    gm = check_pass(
        quantize_operands,
        calibrated(nn.Linear(4, 6), config),
        (X,),
        after="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            quantize = quantize(check_input, linear.input_scale, None, -8, 7)
            dequantize = dequantize(quantize, linear.input_scale, None, -8, 7)
            dequantize_1 = dequantize(linear.weight_codes, linear.weight_scale, None, -4, 3, 0)
            linear = F.linear(dequantize, dequantize_1, bias)
            return linear
        """,
        stage=Stage.QUANTISED,
        tolerance=0.5,
    )
    scale = get_tensor(gm, "linear.weight_scale")
    assert scale.shape == (6,)
    assert len(scale.unique()) == 2
    codes = get_tensor(gm, "linear.weight_codes")
    assert int(codes.min()) >= -4
    assert int(codes.max()) <= 3


def test_twin_operands_have_two_scales_and_a_split() -> None:
    gm = check_pass(
        quantize_operands,
        calibrated(Mlp(), QuantConfig(LayerSpec(gelu=TwinGELU(6)))),
        (X,),
        after="""
            (x)
            check_input = check_input(x, (None, None, 4), 'x')
            quantize = quantize(check_input, fc1.input_scale, fc1.input_zero_point, 0, 255)
            dequantize = dequantize(quantize, fc1.input_scale, fc1.input_zero_point, 0, 255)
            dequantize_1 = dequantize(fc1.weight_codes, fc1.weight_scale, None, -128, 127, 0)
            linear = F.linear(dequantize, dequantize_1, fc1.bias)
            gelu = F.gelu(linear)
            quantize_twin = quantize_twin(gelu, fc2.input_high, fc2.input_low, fc2.input_split, -31, 31)
            dequantize_twin = dequantize_twin(quantize_twin, fc2.input_high, fc2.input_low, fc2.input_split, -31, 31)
            dequantize_2 = dequantize(fc2.weight_codes, fc2.weight_scale, None, -128, 127, 0)
            linear_1 = F.linear(dequantize_twin, dequantize_2, fc2.bias)
            return linear_1
        """,
        stage=Stage.QUANTISED,
        tolerance=0.05,
    )
    assert [get_tensor(gm, f"fc2.input_{name}").shape for name in ("high", "low", "split")] == [()] * 3
    assert float(get_tensor(gm, "fc2.input_split")) == 0


def _context(self: Any, scores: Tensor, v: Tensor) -> Tensor:
    return F.softmax(scores, -1) @ v


def test_twin_probabilities() -> None:
    inputs = (torch.randn(2, 5, 5), torch.randn(2, 5, 4))
    gm = check_pass(
        quantize_operands,
        calibrated(module_of(_context), QuantConfig(LayerSpec(softmax=TwinSoftmax()), attention=True), *inputs),
        inputs,
        after="""
            (scores, v)
            check_input = check_input(scores, (None, None, 5), 'scores')
            check_input_1 = check_input(v, (None, 5, None), 'v')
            quantize = quantize(check_input_1, matmul.pv.value_scale, matmul.pv.value_zero_point, 0, 255)
            dequantize = dequantize(quantize, matmul.pv.value_scale, matmul.pv.value_zero_point, 0, 255)
            softmax = F.softmax(check_input, -1)
            quantize_twin = quantize_twin(softmax, matmul.pv.probs_high, matmul.pv.probs_low, matmul.pv.probs_split, -127, 127)
            dequantize_twin = dequantize_twin(quantize_twin, matmul.pv.probs_high, matmul.pv.probs_low, \
matmul.pv.probs_split, -127, 127)
            matmul = torch.matmul(dequantize_twin, dequantize)
            return matmul
        """,
        stage=Stage.QUANTISED,
        tolerance=0.05,
    )
    split = float(get_tensor(gm, "matmul.pv.probs_split"))
    assert float(get_tensor(gm, "matmul.pv.probs_high")) == pytest.approx(1 / 127)
    assert float(get_tensor(gm, "matmul.pv.probs_low")) == pytest.approx(-split / 127)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_twin_probabilities_as_published_are_one_operator(dtype: torch.dtype) -> None:
    inputs = (torch.randn(2, 5, 5).to(dtype), torch.randn(2, 5, 4).to(dtype))
    config = QuantConfig(LayerSpec(softmax=TwinSoftmax(published=True)), attention=True)
    prepared = fxquant.prepare(module_of(_context), config, inputs)
    prepared(*inputs)
    cast = "" if dtype is torch.float32 else "\n            to = matmul.to(torch.bfloat16)"
    check_pass(
        quantize_operands,
        prepared,
        inputs,
        after=f"""
            (scores, v)
            check_input = check_input(scores, (None, None, 5), 'scores')
            check_input_1 = check_input(v, (None, 5, None), 'v')
            quantize = quantize(check_input_1, matmul.pv.value_scale, matmul.pv.value_zero_point, 0, 255)
            dequantize = dequantize(quantize, matmul.pv.value_scale, matmul.pv.value_zero_point, 0, 255)
            softmax = F.softmax(check_input, -1)
            fake_quantize_summed_twin = fake_quantize_summed_twin(softmax, matmul.pv.probs_split, 127)
            matmul = torch.matmul(fake_quantize_summed_twin, dequantize){cast}
            return {"to" if cast else "matmul"}
        """,
        stage=Stage.QUANTISED,
        tolerance=0.3,  # the published form shifts every probability
    )


def test_a_bfloat16_product_computes_in_float32_and_returns_to_the_model() -> None:
    gm = check_pass(
        quantize_operands,
        calibrated(nn.Linear(4, 6).bfloat16(), None, X.bfloat16()),
        (X.bfloat16(),),
        after="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            quantize = quantize(check_input, linear.input_scale, linear.input_zero_point, 0, 255)
            dequantize = dequantize(quantize, linear.input_scale, linear.input_zero_point, 0, 255)
            dequantize_1 = dequantize(linear.weight_codes, linear.weight_scale, None, -128, 127, 0)
            linear = F.linear(dequantize, dequantize_1, linear.bias_float32)
            to = linear.to(torch.bfloat16)
            return to
        """,
        stage=Stage.QUANTISED,
        tolerance=0.02,
    )
    assert get_tensor(gm, "linear.bias_float32").dtype is torch.float32


def test_a_float_operand_meets_a_simulated_one_in_the_model_dtype() -> None:
    check_pass(
        quantize_operands,
        calibrated(nn.Linear(4, 6).bfloat16(), QuantConfig(LayerSpec(activation=None)), X.bfloat16()),
        (X.bfloat16(),),
        after="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            dequantize = dequantize(linear.weight_codes, linear.weight_scale, None, -128, 127, 0)
            to = dequantize.to(torch.bfloat16)
            linear = F.linear(check_input, to, bias)
            return linear
        """,
        stage=Stage.QUANTISED,
        tolerance=0.02,
    )


def test_a_bias_computed_at_run_time_is_cast_with_its_product() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, x.mean((0, 1)))

    check_pass(
        quantize_operands,
        calibrated(module_of(forward, weight=torch.randn(4, 4)).bfloat16(), None, X.bfloat16()),
        (X.bfloat16(),),
        after="""
            (x)
            check_input = check_input(x, (None, None, 4), 'x')
            quantize = quantize(check_input, linear.input_scale, linear.input_zero_point, 0, 255)
            dequantize = dequantize(quantize, linear.input_scale, linear.input_zero_point, 0, 255)
            dequantize_1 = dequantize(linear.weight_codes, linear.weight_scale, None, -128, 127, 0)
            mean = check_input.mean((0, 1))
            float = mean.float()
            linear = F.linear(dequantize, dequantize_1, float)
            to = linear.to(torch.bfloat16)
            return to
        """,
        stage=Stage.QUANTISED,
        tolerance=0.02,
    )


def test_scales_per_channel_name_their_axis() -> None:
    config = QuantConfig(LayerSpec(activation=TensorSpec(granularity=PerChannel(-1))))
    gm = quantize_operands(calibrated(nn.Linear(4, 6), config)).graph_module
    assert "quantize(check_input, linear.input_scale, linear.input_zero_point, 0, 255, -1)" in render(gm)
    assert get_tensor(gm, "linear.input_scale").shape == (4,)


def test_leaves_a_graph_without_observers() -> None:
    check_unchanged(quantize_operands, quantize_operands(calibrated(Mlp())).graph_module, (X,), Stage.QUANTISED)


def test_checks_inputs_of_a_model_that_stays_float() -> None:
    config = fxquant.recipe("minmax").set_global(None)
    check_pass(
        quantize_operands,
        calibrated(nn.Linear(4, 6), config),
        (X,),
        after="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            linear = F.linear(check_input, weight, bias)
            return linear
        """,
        stage=Stage.QUANTISED,
    )


def test_a_tensor_that_is_always_one_value_keeps_it() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return F.linear(x * 0 + 3, self.weight)

    model = module_of(forward, weight=torch.randn(4, 4))
    gm = quantize_operands(calibrated(model)).graph_module
    assert (gm(X) - model(X)).norm() < 0.01 * model(X).norm()


def test_a_tensor_that_is_always_zero_stays_zero() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return F.linear(x * 0, self.weight)

    gm = quantize_operands(calibrated(module_of(forward, weight=torch.randn(4, 4)))).graph_module
    assert not gm(X).any()


def test_a_weight_that_calibration_found_is_rounded_in_place_of_the_models() -> None:
    model, x = nn.Linear(6, 4).eval(), torch.randn(5, 6)
    prepared = fxquant.prepare(model, fxquant.recipe("minmax"), x)
    fxquant.calibrate(prepared, [x], progress=False)
    observer = next(m for m in prepared.modules() if isinstance(m, Observer) and m.operand.endswith("weight"))
    before = fxquant.convert(prepared, "fake")(x)
    observer.found_weight = -model.weight.detach()
    after = fxquant.convert(prepared, "fake")(x)
    torch.testing.assert_close(after - model.bias, model.bias - before, atol=0.05, rtol=0)
    assert torch.equal(prepared(x), model(x)), "the prepared model stays float"


def test_a_scale_per_token_is_computed_with_the_codes() -> None:
    config = QuantConfig(LayerSpec(activation=TensorSpec(6, granularity=PerToken())))
    gm = check_pass(
        quantize_operands,
        calibrated(nn.Linear(4, 6), config),
        (X,),
        after="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            quantize_tokens = quantize_tokens(check_input, False, 0, 63)
            getitem = quantize_tokens[0]
            getitem_1 = quantize_tokens[1]
            getitem_2 = quantize_tokens[2]
            dequantize_tokens = dequantize_tokens(getitem, getitem_1, getitem_2)
            dequantize = dequantize(linear.weight_codes, linear.weight_scale, None, -128, 127, 0)
            linear = F.linear(dequantize_tokens, dequantize, bias)
            return linear
        """,
        stage=Stage.QUANTISED,
        tolerance=0.05,
    )
    assert "linear.input_scale" not in gm.state_dict()
