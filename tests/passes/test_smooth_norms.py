"""`SmoothNorms` moves a part of the range of channels into the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.config.folds import Folds, Smooth
from tests.support.folding import images, small, stirred


class Branches(nn.Module):
    """A norm that two linear layers read, its second channel dead."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.one, self.other = nn.LayerNorm(4), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.one(y) + self.other(y).sin()  # type: ignore[no-any-return]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_range_is_shared_as_the_paper_says(alpha: float) -> None:
    model: Any = stirred(Branches())
    with torch.no_grad():
        model.norm.weight[1], model.norm.bias[1] = 0.0, 0.0
    x = torch.randn(2, 5, 4)
    y, expected = model.norm(x).detach(), model(x)
    gm = fxquant.prepare(model, fxquant.recipe("minmax", folds=Folds(norms=Smooth(alpha))), x)
    fxquant.calibrate(gm, [x], progress=False)
    assert torch.allclose(gm(x), expected, atol=1e-5)
    weights = torch.maximum(model.one.weight.abs().amax(0), model.other.weight.abs().amax(0))
    factor = y.abs().amax((0, 1)) ** alpha / weights ** (1 - alpha)
    factor[1] = 1.0
    state = gm.state_dict()
    assert torch.allclose(state["one.weight_folded"], model.one.weight * factor)
    assert torch.allclose(state["norm.weight_folded"], model.norm.weight / factor)


@pytest.mark.parametrize("folds", ["smooth", "center+smooth"])  # an RMS norm has no shift, and needs none
def test_a_model_computes_the_same(folds: str) -> None:
    model = small("vit_small_patch14_reg4_dinov2", init_values=0.3)
    gm = fxquant.prepare(model, fxquant.recipe("minmax", folds=folds), images())
    fxquant.calibrate(gm, [images()], progress=False)
    assert (gm(images()) - model(images())).norm() <= 1e-5 * model(images()).norm()
