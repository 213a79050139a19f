"""`simulate_products` gives an int8 graph the form of a fake one, with the same codes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import pipeline
from fxquant.graph.stages import Stage, stage_of
from fxquant.passes.simulate_products import simulate_products
from fxquant.spec import verify
from tests.support.check_pass import check_pass, check_unchanged, through
from tests.support.models import images, small_swin, small_vit

X = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """An MLP with its norm and its residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, N, C)``."""
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))


def converted(
    module: nn.Module, recipe: str = "minmax", x: Tensor = X, target: Any = "int8", attention: bool = False
) -> fx.GraphModule:
    options: dict[str, Any] = {"attention": True} if attention else {}
    config = fxquant.recipe(recipe, 8, 8, **options)
    prepared = fxquant.calibrate(fxquant.prepare(module.eval(), config, x), [x], progress=False)
    return fxquant.convert(prepared, target)


def test_fused_layers_come_apart() -> None:
    gm = check_pass(
        simulate_products,
        converted(Block()),
        (X,),
        after="""
            (x)
            check_input = check_input(x, (None, None, 8), 'x')
            layer_norm = F.layer_norm(check_input, (8,), norm.weight, norm.bias)
            quantize = quantize(layer_norm, fc1.input_scale, fc1.input_zero_point, 0, 255)
            dequantize = dequantize(quantize, fc1.input_scale, fc1.input_zero_point, 0, 255)
            dequantize_1 = dequantize(fc1.weight_codes, fc1.weight_scale, None, -128, 127, 0)
            linear = F.linear(dequantize, dequantize_1, fc1.bias)
            gelu = F.gelu(linear)
            quantize_1 = quantize(gelu, fc2.input_scale, fc2.input_zero_point, 0, 255)
            dequantize_2 = dequantize(quantize_1, fc2.input_scale, fc2.input_zero_point, 0, 255)
            dequantize_3 = dequantize(fc2.weight_codes, fc2.weight_scale, None, -128, 127, 0)
            linear_1 = F.linear(dequantize_2, dequantize_3)
            add = check_input + linear_1
            return add
        """,
        stage=Stage.QUANTISED,
        tolerance=1e-6,
    )
    assert {record.name for record in fxquant.report(gm)} == {"fc1", "fc2"}


def test_a_fake_graph_stays() -> None:
    check_unchanged(simulate_products, converted(Block(), target="fake"), (X,), Stage.QUANTISED)


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("model", [small_vit, pytest.param(small_swin, marks=pytest.mark.long)])
def test_whole_models_compute_what_they_did(model: type[nn.Module], attention: bool) -> None:
    check_model(converted(model(), "minmax", images(), attention=attention))


@pytest.mark.long
@pytest.mark.parametrize("recipe", fxquant.recipes())
def test_every_recipe(recipe: str) -> None:
    check_model(converted(small_vit(), recipe, images()))


def check_model(gm: fx.GraphModule) -> None:
    """Check that no int8 product is left, and that the graph computes the same but for ties."""
    simulated = through(gm, simulate_products)
    verify(simulated, Stage.QUANTISED)
    expected = gm(images())
    assert (simulated(images()) - expected).norm() < 0.02 * expected.norm()
    assert stage_of(pipeline.run(gm, pipeline.SIMULATE, Stage.QUANTISED)) is Stage.QUANTISED
