"""`fuse_gelu` puts GELU and the quantiser behind it into the product before them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant import LayerSpec, PerChannel, QuantConfig, TensorSpec, TwinGELU
from fxquant.graph.meta import record_of
from fxquant.graph.stages import Stage
from fxquant.kernels import use_backend
from fxquant.passes.fuse_gelu import fuse_gelu
from tests.support.check_pass import check_pass, check_unchanged
from tests.support.lowered import lowered

X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
TWIN = QuantConfig(LayerSpec(gelu=TwinGELU()))


class MLP(nn.Module):
    """Two layers; `after` stands between GELU and the second."""

    def __init__(self, approximate: str = "none", after: Any = None, before: Any = None, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.fc2 = nn.Linear(4, width), nn.Linear(width, 4)
        self.approximate, self.after, self.before = approximate, after, before

    def forward(self, x: Tensor) -> Any:
        y = self.fc1(x)
        y = y if self.before is None else self.before(y)
        y = F.gelu(y, approximate=self.approximate)
        y = y if self.after is None else self.after(y)
        return (self.fc2(y[0]), *y[1:]) if isinstance(y, tuple) else self.fc2(y)


def check(module: nn.Module, x: Tensor, config: QuantConfig | None, line: str) -> None:
    with use_backend("aten"):
        gm = check_pass(
            fuse_gelu,
            lowered(module, x, config),
            (x,),
            after=f"""
                (x)
                check_input = check_input(x, (None, None, 4), 'x')
                quantize = quantize(check_input, fc1.input_scale, fc1.input_zero_point, 0, 255)
                {line}
            """,
            stage=Stage.LOWERED,
        )
        assert gm(x[:0]).shape == (0, 5, 4)
        assert torch.equal(gm(x)[1:], gm(x[1:]))
    fused = next(n for n in gm.graph.nodes if "gelu_quantize" in n.name)
    record = record_of(fused)
    assert record is not None
    assert record.label == "fc1"
    assert fused.meta["val"].dtype is torch.int8


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_uniform_quantiser(approximate: str, dtype: torch.dtype) -> None:
    check(
        MLP(approximate).to(dtype),
        X.to(dtype),
        None,
        f"""int8_linear_gelu_quantize = int8_linear_gelu_quantize(quantize, fc1.weight_int8, fc1.scale, fc1.bias_folded, \
'{approximate}', torch.float32, True, fc2.input_scale, fc2.input_zero_point, 0, 255)
                int8_linear = int8_linear(int8_linear_gelu_quantize, fc2.weight_int8, fc2.scale, fc2.bias_folded, \
None, None, {dtype}, True)
                return int8_linear""",
    )


def test_a_twin_uniform_quantiser() -> None:
    check(
        MLP(),
        X,
        TWIN,
        """int8_linear_gelu_quantize_twin = int8_linear_gelu_quantize_twin(quantize, fc1.weight_int8, fc1.scale, \
fc1.bias_folded, 'none', torch.float32, True, fc2.input_high, fc2.input_low, fc2.input_split, -127, 127)
                int8_linear_twin = int8_linear_twin(int8_linear_gelu_quantize_twin, fc2.weight_int8, fc2.scale_high, \
fc2.scale_low, fc2.bias_folded, torch.float32, True)
                return int8_linear_twin""",
    )


@pytest.mark.parametrize("config", [None, TWIN], ids=["uniform", "twin"])
def test_noise_goes_along(config: QuantConfig | None) -> None:
    with use_backend("aten"):
        original = lowered(MLP(width=4), X, config, noise=4)
        expected = original(X)
        result = fuse_gelu(original)
        assert result.modified
        (fused,) = [n for n in result.graph_module.graph.nodes if "gelu_quantize" in n.name]
        assert str(fused.args[-1].target) == "fc2.input_noise"
        assert torch.equal(result.graph_module(X), expected)


AFFINE = QuantConfig(LayerSpec(weight=TensorSpec(granularity=PerChannel(0))))
CHANNELS = QuantConfig(LayerSpec(gelu=TensorSpec(granularity=PerChannel(-1))))
NEAR_MISSES: dict[str, tuple[nn.Module, QuantConfig | None]] = {
    "an affine weight": (MLP(), AFFINE),
    "a scale per channel": (MLP(), CHANNELS),
    "GELU with other readers": (MLP(after=lambda y: (y, y)), None),
    "something in between": (MLP(after=lambda y: y * 2), None),
    "values moved in between": (MLP(after=lambda y: y.transpose(0, 1)), None),
    "something before": (MLP(before=lambda y: y * 2), None),
    "a float layer before": (MLP(), QuantConfig().set_module_name("fc1", None)),
    "a float layer behind": (MLP(), QuantConfig().set_module_name("fc2", None)),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_misses(name: str) -> None:
    module, config = NEAR_MISSES[name]
    check_unchanged(fuse_gelu, lowered(module, X, config), (X,), Stage.LOWERED)


class Both(nn.Module):
    """A product that GELU does not read alone."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc1(x)
        return self.fc2(F.gelu(y)) + y


def test_a_product_with_other_readers_stays() -> None:
    check_unchanged(fuse_gelu, lowered(Both(), X), (X,), Stage.LOWERED)


def test_a_bfloat16_rounding_that_others_want_stays() -> None:
    x = X.bfloat16()
    check_unchanged(fuse_gelu, lowered(MLP(after=lambda y: (y, y)).bfloat16(), x), (x,), Stage.LOWERED)
