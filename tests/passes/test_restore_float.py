"""`RestoreFloat` computes in float, from the same codes, what int8 products computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import LayerSpec, PerChannel, QuantConfig, TensorSpec, TwinGELU
from fxquant.graph.attributes import get_tensor
from fxquant.graph.stages import Stage
from fxquant.passes.restore_float import RestoreFloat
from tests.support.check_pass import check_pass, check_unchanged, through
from tests.support.models import images, small_swin, small_vit
from tests.support.tiers import keep_quick

X = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
REASON = "int8 does not pay for 40 rows"


class Block(nn.Module):
    """An MLP with its norm and its residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, N, C)``."""
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))


def converted(module: nn.Module, config: QuantConfig | None = None, x: Tensor = X) -> fx.GraphModule:
    prepared = fxquant.prepare(module.eval(), config or fxquant.recipe("minmax"), x)
    prepared(x)
    return fxquant.convert(prepared)


def restore(*labels: str) -> RestoreFloat:
    return RestoreFloat(dict.fromkeys(labels, REASON))


def test_a_layer_reads_what_its_codes_stand_for() -> None:
    torch.manual_seed(0)
    gm = check_pass(
        restore("linear"),
        converted(nn.Linear(8, 6)),
        (X,),
        before="""
            (input)
            check_input = check_input(input, (None, None, 8), 'input')
            quantize = quantize(check_input, linear.input_scale, linear.input_zero_point, 0, 255)
            int8_linear = int8_linear(quantize, linear.weight_int8, linear.scale, linear.bias_folded, None, None, \
torch.float32, False)
            return int8_linear
        """,
        after="""
            (input)
            check_input = check_input(input, (None, None, 8), 'input')
            quantize = quantize(check_input, linear.input_scale, linear.input_zero_point, 0, 255)
            dequantize = dequantize(quantize, linear.input_scale, linear.input_zero_point, 0, 255)
            linear = F.linear(dequantize, linear.weight_float, linear.bias_float)
            return linear
        """,
        stage=Stage.LOWERED,
        tolerance=1e-6,
    )
    (record,) = fxquant.report(gm)
    assert (record.int8, record.reason) == (False, REASON)
    assert get_tensor(gm, "linear.weight_float").shape == (6, 8)


def test_fused_layers_come_apart_and_their_norm_with_them() -> None:
    torch.manual_seed(0)
    gm = check_pass(
        restore("fc1", "fc2"),
        converted(Block()),
        (X,),
        after="""
            (x)
            check_input = check_input(x, (None, None, 8), 'x')
            layer_norm = F.layer_norm(check_input, (8,), norm.weight, norm.bias)
            quantize = quantize(layer_norm, fc1.input_scale, fc1.input_zero_point, 0, 255)
            dequantize = dequantize(quantize, fc1.input_scale, fc1.input_zero_point, 0, 255)
            linear = F.linear(dequantize, fc1.weight_float, fc1.bias_float)
            gelu = F.gelu(linear)
            quantize_1 = quantize(gelu, fc2.input_scale, fc2.input_zero_point, 0, 255)
            dequantize_1 = dequantize(quantize_1, fc2.input_scale, fc2.input_zero_point, 0, 255)
            linear_1 = F.linear(dequantize_1, fc2.weight_float, fc2.bias_float)
            add = check_input + linear_1
            return add
        """,
        stage=Stage.LOWERED,
        tolerance=2e-3,  # the codes between the layers may differ by one
    )
    assert fxquant.report(gm).coverage == 0


def test_one_layer_of_two_reads_the_codes_of_the_other() -> None:
    torch.manual_seed(0)
    check_pass(
        restore("fc2"),
        converted(Block(), QuantConfig(LayerSpec(gelu=TwinGELU()))),
        (X,),
        after="""
            (x)
            check_input = check_input(x, (None, None, 8), 'x')
            layer_norm_quantize = layer_norm_quantize(check_input, norm.weight, norm.bias, 1e-05, fc1.input_scale, \
fc1.input_zero_point, 0, 255)
            int8_linear_gelu_quantize_twin = int8_linear_gelu_quantize_twin(layer_norm_quantize, fc1.weight_int8, fc1.scale, \
fc1.bias_folded, 'none', torch.float32, False, fc2.input_high, fc2.input_low, fc2.input_split, -127, 127)
            dequantize_twin = dequantize_twin(int8_linear_gelu_quantize_twin, fc2.input_high, fc2.input_low, fc2.input_split, \
-127, 127)
            linear = F.linear(dequantize_twin, fc2.weight_float, fc2.bias_float)
            add = check_input + linear
            return add
        """,
        stage=Stage.LOWERED,
        tolerance=1e-6,
    )


def test_an_affine_weight_is_restored_too() -> None:
    torch.manual_seed(0)
    gm = converted(nn.Linear(8, 8), QuantConfig(LayerSpec(weight=TensorSpec(granularity=PerChannel(0)))))
    check = check_pass(
        restore("linear"),
        gm,
        (X,),
        after="""
            (input)
            check_input = check_input(input, (None, None, 8), 'input')
            quantize = quantize(check_input, linear.input_scale, linear.input_zero_point, 0, 255)
            dequantize = dequantize(quantize, linear.input_scale, linear.input_zero_point, 0, 255)
            linear = F.linear(dequantize, linear.weight_float, linear.bias_float)
            return linear
        """,
        stage=Stage.LOWERED,
        tolerance=1e-6,
    )
    assert fxquant.report(check).coverage == 0


def test_other_layers_stay() -> None:
    check_unchanged(restore("head"), converted(Block()), (X,), Stage.LOWERED)


def test_products_of_activations_stay() -> None:
    gm = converted(small_vit(), QuantConfig(attention=True), images())
    labels = [r.name for r in fxquant.report(gm) if r.product in ("qk", "pv")]
    assert labels
    check_unchanged(restore(*labels), gm, (images(),), Stage.LOWERED)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model", keep_quick([small_vit, small_swin], small_vit))
def test_whole_models(model: type[nn.Module], dtype: torch.dtype) -> None:
    x = images().to(dtype)
    gm = converted(model().to(dtype), None, x)
    labels = [r.name for r in fxquant.report(gm) if r.int8]
    restored = through(gm, restore(*labels))
    report = fxquant.report(restored)
    assert report.coverage == 0
    assert {r.reason for r in report if r.name in labels} == {REASON}
    expected, found = gm(x).double(), restored(x).double()
    # Each layer but the first reads other codes here and there.
    assert (found - expected).norm() <= (0.02 if dtype is torch.float32 else 0.05) * expected.norm()
