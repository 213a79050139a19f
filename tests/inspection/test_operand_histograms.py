"""Histograms are of the float values, with the grid that they are rounded to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import LayerSpec, QuantConfig, TensorSpec, TwinGELU
from fxquant.inspection.graph_rows import graph_rows
from fxquant.inspection.operand_histograms import BINS, OperandHistogram, operand_histograms, operand_values

X = torch.linspace(-1, 3, 4 * 10 * 8).reshape(4, 10, 8)
WEIGHT = TensorSpec(8, signed=True, symmetric=True)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


def histograms(
    layer: LayerSpec, target: str = "int8", shown: Tensor = X, noisy: bool = False
) -> dict[str, OperandHistogram]:
    """Return the histogram of the input of each layer; calibrated on `X`, measured on what is `shown`."""
    config: Any = fxquant.recipe("noisyquant") if noisy else QuantConfig(layer)
    traced = fxquant.trace(Mlp().eval(), X)
    prepared = fxquant.calibrate(fxquant.prepare(traced, config), [X], progress=False)
    gm = fxquant.convert(prepared, target)  # type: ignore[arg-type]
    values = operand_values(traced, graph_rows(traced, "auto"), [shown])
    found = operand_histograms(graph_rows(gm, "auto"), values)
    return {key[-1]: each[0] for key, each in found.items()}


@pytest.mark.parametrize("target", ["int8", "fake"])
def test_the_grid_is_what_the_codes_stand_for(target: str) -> None:
    found = histograms(LayerSpec(WEIGHT, TensorSpec(8)), target)["fc1"]
    assert (found.low, found.high) == (-1, 3)
    assert len(found.counts) == BINS
    assert sum(found.counts) == X.numel()
    assert found.grid is not None
    assert found.grid.step == pytest.approx(4 / 255)
    assert found.grid.low == pytest.approx(-1, abs=0.01)
    assert found.grid.high == pytest.approx(3, abs=0.01)
    assert found.clipped == 0


def test_values_beyond_the_grid_are_clipped() -> None:
    found = histograms(LayerSpec(WEIGHT, TensorSpec(8)), shown=2 * X)["fc1"]
    assert (found.low, found.high) == (-2, 6)
    assert found.clipped == pytest.approx(0.5, abs=0.03), "below -1 and above 3 lie half of -2 to 6"


def test_two_ranges_are_both_drawn() -> None:
    grid = histograms(LayerSpec(WEIGHT, TensorSpec(8), gelu=TwinGELU(8)))["fc2"].grid
    assert grid is not None
    assert grid.fine is not None
    assert grid.fine[0] < grid.fine[1] == grid.low == 0 < grid.high, "GELU is split at 0"
    assert 0 < grid.fine[2] < grid.step


def test_noise_is_told_and_a_scale_per_token_is_no_grid() -> None:
    grid = histograms(LayerSpec(WEIGHT, None), noisy=True)["fc1"].grid
    assert grid is not None
    assert grid.noise > 0
    tokens = histograms(LayerSpec(WEIGHT, TensorSpec(granularity=fxquant.PerToken())))["fc1"]
    assert (tokens.grid, tokens.clipped) == (None, 0)
