"""`fuse_residual` adds where the product is finished, and only what is as large as the product."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxquant import LayerSpec, PerChannel, QuantConfig, TensorSpec, TwinGELU
from fxquant.graph.meta import record_of
from fxquant.graph.stages import Stage
from fxquant.kernels import use_backend
from fxquant.passes.fuse_residual import fuse_residual
from tests.support.check_pass import check_pass, check_unchanged
from tests.support.lowered import lowered

X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """A layer whose result and input `add` puts together."""

    def __init__(self, add: Any, gelu: bool = False, outputs: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.add, self.gelu = nn.Linear(4, outputs), add, nn.GELU() if gelu else nn.Identity()
        self.position = nn.Parameter(torch.randn(1, 5, 4))

    def forward(self, x: Tensor) -> Any:
        return self.add(x, self.fc(self.gelu(x)), self.position)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "add",
    [lambda x, y, p: x + y, lambda x, y, p: y + x, lambda x, y, p: torch.add(x, y)],
    ids=["x + y", "y + x", "add"],
)
def test_adds_a_residual(add: Any, dtype: torch.dtype) -> None:
    x = X.to(dtype)
    with use_backend("aten"):
        gm = check_pass(
            fuse_residual,
            lowered(Residual(add).to(dtype), x),
            (x,),
            after=f"""
                (x)
                check_input = check_input(x, (None, None, 4), 'x')
                quantize = quantize(check_input, fc.input_scale, fc.input_zero_point, 0, 255)
                int8_linear_add = int8_linear_add(quantize, fc.weight_int8, fc.scale, fc.bias_folded, \
check_input, {dtype}, True)
                return int8_linear_add
            """,
            stage=Stage.LOWERED,
        )
        assert gm(x[:0]).shape == (0, 5, 4)
    fused = next(n for n in gm.graph.nodes if n.name.startswith("int8_linear_add"))
    record = record_of(fused)
    assert record is not None
    assert record.label == "fc"


def test_behind_a_twin_uniform_input() -> None:
    with use_backend("aten"):
        check_pass(
            fuse_residual,
            lowered(Residual(lambda x, y, p: x + y, gelu=True), X, QuantConfig(LayerSpec(gelu=TwinGELU()))),
            (X,),
            after="""
                (x)
                check_input = check_input(x, (None, None, 4), 'x')
                gelu = F.gelu(check_input)
                quantize_twin = quantize_twin(gelu, fc.input_high, fc.input_low, fc.input_split, -127, 127)
                int8_linear_twin_add = int8_linear_twin_add(quantize_twin, fc.weight_int8, fc.scale_high, fc.scale_low, \
fc.bias_folded, check_input, torch.float32, True)
                return int8_linear_twin_add
            """,
            stage=Stage.LOWERED,
        )


class Sum(nn.Module):
    """Two layers added; the sum of either has the other for its residual."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)


def test_a_sum_of_two_products_takes_one_of_them() -> None:
    with use_backend("aten"):
        check_pass(
            fuse_residual,
            lowered(Sum(), X),
            (X,),
            after="""
                (x)
                check_input = check_input(x, (None, None, 4), 'x')
                quantize = quantize(check_input, a.input_scale, a.input_zero_point, 0, 255)
                int8_linear = int8_linear(quantize, a.weight_int8, a.scale, a.bias_folded, None, None, torch.float32, True)
                int8_linear_add = int8_linear_add(quantize, b.weight_int8, b.scale, b.bias_folded, \
int8_linear, torch.float32, True)
                return int8_linear_add
            """,
            stage=Stage.LOWERED,
        )


AFFINE = QuantConfig(LayerSpec(weight=TensorSpec(granularity=PerChannel(0))))
NEAR_MISSES: dict[str, tuple[nn.Module, QuantConfig | None]] = {
    "an affine weight": (Residual(lambda x, y, p: x + y), AFFINE),
    "a constant": (Residual(lambda x, y, p: p + y), None),
    "a row for all": (Residual(lambda x, y, p: x[:, :1] + y), None),
    "an image for all": (Residual(lambda x, y, p: y + x[:1]), None),
    "a broadcast product": (Residual(lambda x, y, p: x + y, outputs=1), None),
    "a number": (Residual(lambda x, y, p: y + 1.0), None),
    "another dtype": (Residual(lambda x, y, p: x.double() + y), None),
    "a product with other readers": (Residual(lambda x, y, p: (x + y, y)), None),
    "a weighted sum": (Residual(lambda x, y, p: torch.add(x, y, alpha=2)), None),
    "a difference": (Residual(lambda x, y, p: x - y), None),
    "a moved product": (Residual(lambda x, y, p: x + y.flip(1)), None),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_misses(name: str) -> None:
    module, config = NEAR_MISSES[name]
    check_unchanged(fuse_residual, lowered(module, X, config), (X,), Stage.LOWERED)


def test_a_constant_as_large_as_the_one_image_of_calibration() -> None:
    gm = lowered(Residual(lambda x, y, p: p + y), X[:1])
    check_unchanged(fuse_residual, gm, (X,), Stage.LOWERED)
    check_unchanged(fuse_residual, gm, (X[:1],), Stage.LOWERED)


def test_a_product_added_to_itself() -> None:
    original = lowered(Residual(lambda x, y, p: y + y), X)
    expected = original(X)
    assert torch.equal(fuse_residual(original).graph_module(X), expected)


def test_unknown_shapes_stay() -> None:
    gm = lowered(Residual(lambda x, y, p: x + y), X)
    for node in gm.graph.nodes:
        node.meta.pop("val", None)
    check_unchanged(fuse_residual, gm, (X,), Stage.LOWERED)
