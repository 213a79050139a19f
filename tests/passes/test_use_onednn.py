"""`use_onednn` swaps `int8_linear` for oneDNN's kernel and puts GELU into it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import LayerSpec, PerChannel, QuantConfig, TensorSpec
from fxquant.meta import record_of
from fxquant.ops.onednn_linear import is_available, onednn_linear
from fxquant.passes.use_onednn import use_onednn
from fxquant.spec import Stage
from tests.helpers import check_pass, check_unchanged, module_of

X = torch.randn(2, 20, 8)

needs_onednn = pytest.mark.skipif(not is_available(), reason="no oneDNN integer linear layer for this processor")


def lowered(module: nn.Module, config: QuantConfig | None = None, x: Tensor = X) -> fx.GraphModule:
    prepared = fxquant.prepare(module.eval(), config or fxquant.recipe("minmax"))
    prepared(x)
    return fxquant.convert(prepared)


@needs_onednn
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_absorbs_gelu(approximate: str) -> None:
    gm = check_pass(
        use_onednn,
        lowered(nn.Sequential(nn.Linear(8, 16), nn.GELU(approximate))),
        (X,),
        after=f"""
            (input)
            check_input = check_input(input, (None, None, 8), 'input')
            quantize = quantize(check_input, 0.input_scale, 0.input_zero_point, 0, 255)
            onednn_linear = onednn_linear(quantize, 0.weight_int8, 0.scale, 0.bias_folded, torch.float32, '{approximate}')
            return onednn_linear
        """,
        stage=Stage.LOWERED,
        tolerance=1e-6,
    )
    (product,) = [n for n in gm.graph.nodes if n.target is onednn_linear]
    assert record_of(product) is not None


@needs_onednn
def test_a_result_with_two_readers_keeps_its_gelu() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = F.linear(x, self.w)
        return F.gelu(y) + y

    check_pass(
        use_onednn,
        lowered(module_of(forward, w=torch.randn(8, 8))),
        (X,),
        after="""
            (x)
            check_input = check_input(x, (None, None, 8), 'x')
            quantize = quantize(check_input, linear.input_scale, linear.input_zero_point, 0, 255)
            onednn_linear = onednn_linear(quantize, linear.weight_int8, linear.scale, linear.bias_folded, torch.float32, None)
            gelu = F.gelu(onednn_linear)
            add = gelu + onednn_linear
            return add
        """,
        stage=Stage.LOWERED,
        tolerance=1e-6,
    )


def test_an_affine_weight_stays() -> None:
    config = QuantConfig(LayerSpec(weight=TensorSpec(granularity=PerChannel(0))))
    check_unchanged(use_onednn, lowered(nn.Linear(8, 8), config), (X,), Stage.LOWERED)


def test_a_float16_result_stays() -> None:
    x = X.half()
    check_unchanged(use_onednn, lowered(nn.Linear(8, 8).half(), x=x), (x,), Stage.LOWERED)
