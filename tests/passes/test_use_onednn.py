"""`UseOnednn` swaps chosen int8 linear layers for oneDNN's kernel, with or without GELU, a residual and codes behind them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import LayerSpec, PerChannel, QuantConfig, TensorSpec, TwinGELU
from fxquant.graph.meta import record_of
from fxquant.graph.stages import Stage
from fxquant.ops.onednn_linear import is_available, onednn_linear
from fxquant.passes.use_onednn import UseOnednn
from tests.support.check_pass import check_pass, check_unchanged

X = torch.randn(2, 20, 8)

needs_onednn = pytest.mark.skipif(not is_available(), reason="no oneDNN integer linear layer for this processor")


class MLP(nn.Module):
    """An MLP and its residual."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, N, C)``."""
        return x + self.fc2(nn.functional.gelu(self.fc1(x)))


def lowered(module: nn.Module, config: QuantConfig | None = None, x: Tensor = X) -> fx.GraphModule:
    prepared = fxquant.prepare(module.eval(), config or fxquant.recipe("minmax"))
    prepared(x)
    return fxquant.convert(prepared)


@needs_onednn
def test_takes_the_layers_named() -> None:
    gm = check_pass(
        UseOnednn(frozenset({"fc1", "fc2"})),
        lowered(MLP()),
        (X,),
        after="""
            (x)
            check_input = check_input(x, (None, None, 8), 'x')
            quantize = quantize(check_input, fc1.input_scale, fc1.input_zero_point, 0, 255)
            onednn_linear = onednn_linear(quantize, fc1.weight_int8, fc1.scale, fc1.bias_folded, torch.float32, 'none')
            quantize_1 = quantize(onednn_linear, fc2.input_scale, fc2.input_zero_point, 0, 255, None, None)
            onednn_linear_1 = onednn_linear(quantize_1, fc2.weight_int8, fc2.scale, fc2.bias_folded, torch.float32, None)
            add = check_input + onednn_linear_1
            return add
        """,
        stage=Stage.LOWERED,
        tolerance=1e-6,
    )
    products = [n for n in gm.graph.nodes if n.target is onednn_linear]
    assert [record_of(n).label for n in products] == ["fc1", "fc2"]  # type: ignore[union-attr]


@needs_onednn
def test_a_twin_uniform_result() -> None:
    gm = check_pass(
        UseOnednn(frozenset({"fc1"})),
        lowered(MLP(), QuantConfig(LayerSpec(gelu=TwinGELU()))),
        (X,),
        after="""
            (x)
            check_input = check_input(x, (None, None, 8), 'x')
            quantize = quantize(check_input, fc1.input_scale, fc1.input_zero_point, 0, 255)
            onednn_linear = onednn_linear(quantize, fc1.weight_int8, fc1.scale, fc1.bias_folded, torch.float32, 'none')
            quantize_twin = quantize_twin(onednn_linear, fc2.input_high, fc2.input_low, fc2.input_split, -127, 127, None)
            int8_linear_twin_add = int8_linear_twin_add(quantize_twin, fc2.weight_int8, fc2.scale_high, fc2.scale_low, \
fc2.bias_folded, check_input, torch.float32, False)
            return int8_linear_twin_add
        """,
        stage=Stage.LOWERED,
        tolerance=1e-6,
    )
    assert gm is not None


def test_leaves_layers_that_are_not_named() -> None:
    check_unchanged(UseOnednn(frozenset({"fc3"})), lowered(MLP()), (X,), stage=Stage.LOWERED)


AFFINE = QuantConfig(LayerSpec(weight=TensorSpec(8, signed=True, granularity=PerChannel(0))))


@pytest.mark.parametrize(
    ("config", "dtype"),
    [(AFFINE, torch.float32), (QuantConfig(), torch.float16), (QuantConfig(LayerSpec(gelu=TwinGELU())), torch.float32)],
    ids=["affine weight", "float16", "twin-uniform input"],
)
def test_what_onednn_does_not_take(config: QuantConfig, dtype: torch.dtype) -> None:
    x = X.to(dtype)
    module = nn.Sequential(nn.GELU(), nn.Linear(8, 16)).to(dtype)
    check_unchanged(UseOnednn(frozenset({"1"})), lowered(module, config, x), (x,), stage=Stage.LOWERED)
