"""`keep_float32` leaves out roundings that nothing but quantisers would see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import QuantConfig, pipeline
from fxquant.graph.shapes import propagate_shapes
from fxquant.graph.stages import Stage
from fxquant.passes.keep_float32 import keep_float32
from tests.support import noisy
from tests.support.check_pass import check_pass, check_unchanged

X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).bfloat16()


def rounded(module: nn.Module, x: Tensor = X, config: QuantConfig | None = None, noise: int = 0) -> fx.GraphModule:
    """Return the simulated model before `keep_float32`, every shape known."""
    module = module.eval().to(x.dtype)
    if noise:
        prepared = noisy.prepared(module, x, config, noise)
    else:
        prepared = fxquant.prepare(module, config or fxquant.recipe("minmax"))
        prepared(x)
    propagate_shapes(prepared, [x])
    passes = [p for p in pipeline.CONVERT if p is not keep_float32]
    return pipeline.run(prepared, passes, Stage.QUANTISED)


class MLP(nn.Module):
    """Two layers; `after` stands between GELU and the second."""

    def __init__(self, after: Any = None, before: Any = None, approximate: str = "none") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.fc2, self.after, self.before = nn.Linear(4, 4), nn.Linear(4, 4), after, before
        self.approximate = approximate

    def forward(self, x: Tensor) -> Any:
        y = self.fc1(x)
        y = F.gelu(y if self.before is None else self.before(y), approximate=self.approximate)
        y = y if self.after is None else self.after(y)
        return (self.fc2(y[0]), *y[1:]) if isinstance(y, tuple) else self.fc2(y)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gelu_between_two_products(dtype: torch.dtype) -> None:
    x = X.to(dtype)
    gm = check_pass(
        keep_float32,
        rounded(MLP(approximate="tanh"), x),
        (x,),
        before=f"""
            (x)
            check_input = check_input(x, (None, None, 4), 'x')
            quantize = quantize(check_input, fc1.input_scale, fc1.input_zero_point, 0, 255)
            dequantize = dequantize(quantize, fc1.input_scale, fc1.input_zero_point, 0, 255)
            dequantize_1 = dequantize(fc1.weight_codes, fc1.weight_scale, None, -128, 127, 0)
            linear = F.linear(dequantize, dequantize_1, fc1.bias_float32)
            to = linear.to({dtype})
            gelu = F.gelu(to, approximate='tanh')
            quantize_1 = quantize(gelu, fc2.input_scale, fc2.input_zero_point, 0, 255)
            dequantize_2 = dequantize(quantize_1, fc2.input_scale, fc2.input_zero_point, 0, 255)
            dequantize_3 = dequantize(fc2.weight_codes, fc2.weight_scale, None, -128, 127, 0)
            linear_1 = F.linear(dequantize_2, dequantize_3, fc2.bias_float32)
            to_1 = linear_1.to({dtype})
            return to_1
        """,
        after=f"""
            (x)
            check_input = check_input(x, (None, None, 4), 'x')
            quantize = quantize(check_input, fc1.input_scale, fc1.input_zero_point, 0, 255)
            dequantize = dequantize(quantize, fc1.input_scale, fc1.input_zero_point, 0, 255)
            dequantize_1 = dequantize(fc1.weight_codes, fc1.weight_scale, None, -128, 127, 0)
            linear = F.linear(dequantize, dequantize_1, fc1.bias_float32)
            gelu = F.gelu(linear, approximate='tanh')
            quantize_1 = quantize(gelu, fc2.input_scale, fc2.input_zero_point, 0, 255)
            dequantize_2 = dequantize(quantize_1, fc2.input_scale, fc2.input_zero_point, 0, 255)
            dequantize_3 = dequantize(fc2.weight_codes, fc2.weight_scale, None, -128, 127, 0)
            linear_1 = F.linear(dequantize_2, dequantize_3, fc2.bias_float32)
            to = linear_1.to({dtype})
            return to
        """,
        stage=Stage.QUANTISED,
        tolerance=2e-2,
    )
    (gelu,) = [n for n in gm.graph.nodes if n.target is F.gelu]
    assert gelu.meta["val"].dtype is torch.float32


class Normed(nn.Module):
    """A layer behind a norm; `after` stands between them."""

    def __init__(self, after: Any = None, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.fc, self.after = nn.LayerNorm(4, **options), nn.Linear(4, 4), after

    def forward(self, x: Tensor) -> Any:
        y = self.norm(x)
        y = y if self.after is None else self.after(y)
        return (self.fc(y[0]), *y[1:]) if isinstance(y, tuple) else self.fc(y)


def test_a_norm_computes_in_float32() -> None:
    gm = check_pass(
        keep_float32,
        rounded(Normed(eps=1e-6)),
        (X,),
        after="""
            (x)
            check_input = check_input(x, (None, None, 4), 'x')
            to = check_input.to(torch.float32)
            layer_norm = F.layer_norm(to, (4,), norm.weight_float32, norm.bias_float32, 1e-06)
            quantize = quantize(layer_norm, fc.input_scale, fc.input_zero_point, 0, 255)
            dequantize = dequantize(quantize, fc.input_scale, fc.input_zero_point, 0, 255)
            dequantize_1 = dequantize(fc.weight_codes, fc.weight_scale, None, -128, 127, 0)
            linear = F.linear(dequantize, dequantize_1, fc.bias_float32)
            to_1 = linear.to(torch.bfloat16)
            return to_1
        """,
        stage=Stage.QUANTISED,
        tolerance=2e-2,
    )
    (norm,) = [n for n in gm.graph.nodes if n.target is F.layer_norm]
    assert norm.meta["val"].dtype is torch.float32
    assert gm(X[:0]).shape == (0, 5, 4)


MOVES = {
    "windows": lambda y: y.view(-1, 5, 2, 2).permute(0, 1, 3, 2).flatten(2),
    "padding": lambda y: F.pad(y, (0, 0, 0, 3)),
    "a roll by its size": lambda y: torch.roll(y, y.shape[1] - 1, 1),
    "a token": lambda y: y[:, 0],
}


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("make", [MLP, Normed])
@pytest.mark.parametrize("noise", [0, 4])
def test_through_moves_and_noise(name: str, make: Any, noise: int) -> None:
    original = rounded(make(after=MOVES[name]), noise=noise)
    expected = original(X)
    result = keep_float32(original)
    assert result.modified
    wide = [n for n in result.graph_module.graph.nodes if n.target in (F.layer_norm, F.gelu)]
    assert all(n.meta["val"].dtype is torch.float32 for n in wide)
    found = result.graph_module(X)
    assert found.dtype is torch.bfloat16
    assert (found - expected).norm() <= 0.03 * expected.norm()


def test_a_norm_without_parameters() -> None:
    result = keep_float32(rounded(Normed(elementwise_affine=False)))
    assert result.modified
    assert result.graph_module(X).dtype is torch.bfloat16


OTHERS = {
    "other readers": lambda y: (y, y),
    "readers of moved values": lambda y: (y, y.transpose(0, 1)),
    "a computation": lambda y: y * 2,
    "a cast": lambda y: y.double().to(torch.bfloat16),
    "the output": lambda y: (y.mean(1), y[:, 0]),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("make", [MLP, Normed])
def test_roundings_that_others_want_stay(name: str, make: Any) -> None:
    check_unchanged(keep_float32, rounded(make(after=OTHERS[name])), (X,), Stage.QUANTISED)


def test_a_float32_model_stays() -> None:
    for module in (MLP(), Normed()):
        check_unchanged(keep_float32, rounded(module, X.float()), (X.float(),), Stage.QUANTISED)


def test_a_float_product_stays() -> None:
    config = QuantConfig().set_module_name("fc1", None)
    check_unchanged(keep_float32, rounded(MLP(), config=config), (X,), Stage.QUANTISED)


def test_what_others_read_of_the_cast_stays() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc1(x)
            return self.fc2(F.gelu(y)) + y

    check_unchanged(keep_float32, rounded(Both()), (X,), Stage.QUANTISED)


def test_values_computed_in_between_stay() -> None:
    check_unchanged(keep_float32, rounded(MLP(before=lambda y: y * 2)), (X,), Stage.QUANTISED)


class Cast(nn.Module):
    """A bfloat16 layer that reads an image of another dtype, which others may read as well."""

    def __init__(self, dtype: torch.dtype = torch.bfloat16, shared: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.dtype, self.shared = nn.Linear(4, 4).to(dtype), dtype, shared

    def forward(self, x: Tensor) -> Tensor:
        y = x.to(self.dtype)
        z: Tensor = self.fc(y)
        return z + y if self.shared else z


def observed(module: nn.Module, x: Tensor) -> fx.GraphModule:
    """Return `rounded` of a model that keeps its dtypes."""
    prepared = fxquant.prepare(module.eval(), fxquant.recipe("minmax"), x)
    prepared(x)
    propagate_shapes(prepared, [x])
    return pipeline.run(prepared, [p for p in pipeline.CONVERT if p is not keep_float32], Stage.QUANTISED)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_float32_image_is_read_before_its_cast(dtype: torch.dtype) -> None:
    check_pass(
        keep_float32,
        observed(Cast(dtype, shared=True), X.float()),
        (X.float(),),
        after=f"""
            (x)
            check_input = check_input(x, (None, None, 4), 'x')
            to = check_input.to({dtype})
            quantize = quantize(check_input, fc.input_scale, fc.input_zero_point, 0, 255)
            dequantize = dequantize(quantize, fc.input_scale, fc.input_zero_point, 0, 255)
            dequantize_1 = dequantize(fc.weight_codes, fc.weight_scale, None, -128, 127, 0)
            linear = F.linear(dequantize, dequantize_1, fc.bias_float32)
            to_1 = linear.to({dtype})
            add = to_1 + to
            return add
        """,
        stage=Stage.QUANTISED,
    )


@pytest.mark.parametrize("x", [X.double(), X], ids=["float64", "the same dtype"])
def test_an_image_of_another_dtype_is_cast(x: Tensor) -> None:
    check_unchanged(keep_float32, observed(Cast(), x), (x,), Stage.QUANTISED)
