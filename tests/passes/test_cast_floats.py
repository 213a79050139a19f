"""`CastFloats` changes the dtype that everything but int8 is computed in; what goes in and comes out keeps its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import ConfigError, QuantConfig
from fxquant.graph.attributes import get_tensor
from fxquant.passes.cast_floats import CastFloats
from tests.support.check_pass import check_pass, check_unchanged
from tests.support.models import images, small_swin, small_vit
from tests.support.tiers import keep_quick

X = torch.randn(3, 8)
BFLOAT16 = CastFloats(torch.bfloat16)


class Normed(nn.Module):
    """A norm and a layer, with whole numbers for company."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(8), nn.Linear(8, 4)
        self.register_buffer("order", torch.arange(7, -1, -1))

    def forward(self, x: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(B, 4)``, and the whole numbers."""
        return self.fc(self.norm(x)[:, self.order]), where + 1


def test_a_model() -> None:
    where = torch.arange(3)
    gm = check_pass(
        BFLOAT16,
        fxquant.trace(Normed().eval(), (X, where)),
        (X, where),
        before="""
            (x, where)
            layer_norm = F.layer_norm(x, (8,), norm.weight, norm.bias)
            getitem = layer_norm[:, order]
            linear = F.linear(getitem, fc.weight, fc.bias)
            add = where + 1
            return (linear, add)
        """,
        after="""
            (x, where)
            to = x.to(torch.bfloat16)
            layer_norm = F.layer_norm(to, (8,), norm.weight, norm.bias)
            getitem = layer_norm[:, order]
            linear = F.linear(getitem, fc.weight, fc.bias)
            add = where + 1
            to_1 = linear.to(torch.float32)
            return (to_1, add)
        """,
        tolerance=0.02,
    )
    assert get_tensor(gm, "fc.weight").dtype is torch.bfloat16
    assert get_tensor(gm, "order").dtype is torch.int64


def test_a_model_that_has_this_dtype() -> None:
    x = X.bfloat16()
    check_unchanged(BFLOAT16, fxquant.trace(nn.Linear(8, 4).bfloat16().eval(), x), (x,))


@pytest.mark.parametrize("model", keep_quick([small_vit, small_swin], small_vit))
def test_a_quantised_model_keeps_its_inputs_outputs_and_source(model: type) -> None:
    original, x = model(), images()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    int8 = fxquant.quantize(original, [x], recipe="minmax", float_dtype="bfloat16")
    assert int8(x).dtype is torch.float32
    assert "the rest is bfloat16" in str(fxquant.report(int8))
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())
    float32 = fxquant.quantize(original, [x], recipe="minmax")(x)
    assert (int8(x) - float32).norm() < 0.1 * float32.norm()
    traced = fxquant.trace(original, x)
    fxquant.prepare(traced, fxquant.recipe("minmax", float_dtype=torch.bfloat16))
    assert get_tensor(traced, "norm.weight").dtype is torch.float32


@pytest.mark.parametrize("dtype", ["int8", "bf16", torch.int8, 16])
def test_refuses_what_is_no_float_dtype(dtype: object) -> None:
    with pytest.raises(ConfigError, match="float_dtype must be one of float32, bfloat16, float16, got"):
        fxquant.recipe("minmax", float_dtype=dtype)
    with pytest.raises(ConfigError, match=r"QuantConfig\.float_dtype must be a float dtype or None"):
        QuantConfig(float_dtype=dtype)  # type: ignore[arg-type]
