"""`spell_convolutions` finds the convolution of two axes in others, so that they run on int8."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.graph.shapes import propagate_shapes
from fxquant.passes.canonicalize import canonicalize
from fxquant.passes.spell_convolutions import spell_convolutions
from tests.support.check_pass import assert_close, graph_of


def respelt(model: nn.Module, x: Tensor, known: bool = True) -> bool:
    gm = canonicalize(graph_of(model)).graph_module
    if known:
        propagate_shapes(gm, (x,))
    result = spell_convolutions(gm)
    assert_close(model, result.graph_module, (x,), 1e-6)
    assert not spell_convolutions(result.graph_module).modified
    found = any(n.target is F.conv2d for n in result.graph_module.graph.nodes)
    assert result.modified is found
    longer = torch.cat([x, x], 2)
    assert_close(model, result.graph_module, (longer,), 1e-6)
    return found


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 6, 3, stride=2, padding=1),
        nn.Conv1d(4, 4, 3, dilation=2, groups=2, bias=False),
        nn.Conv1d(4, 6, 3, padding="valid"),
    ],
)
def test_one_axis(layer: nn.Module) -> None:
    torch.manual_seed(0)
    assert respelt(layer.eval(), torch.randn(2, 4, 9))


@pytest.mark.parametrize(
    "options",
    [{"kernel_size": (2, 3, 3), "stride": (2, 1, 1)}, {"kernel_size": 3, "padding": (1, 0, 1), "bias": False}],
)
def test_three_axes(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv3d(3, 4, **options).eval()
    assert respelt(layer, torch.randn(2, 3, 6, 5, 5))
    grouped = nn.Conv3d(4, 4, 3, groups=2).eval()
    assert not respelt(grouped, torch.randn(2, 4, 6, 5, 5))


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"dilation": 1, "padding": (0, 0)}])
def test_transposed(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    assert respelt(nn.ConvTranspose2d(4, 6, 2, 2, **options).eval(), torch.randn(2, 4, 3, 5))
    assert respelt(nn.ConvTranspose2d(4, 6, 3, 3, **options).eval(), torch.randn(2, 4, 3, 5))


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(4, 6, 4, 2, 1),
        nn.ConvTranspose2d(4, 6, 2, 2, groups=2),
        nn.ConvTranspose2d(4, 6, 2, 2, output_padding=1),
        nn.ConvTranspose2d(4, 6, (2, 4), (2, 4)),
    ],
)
def test_others_stay(layer: nn.Module) -> None:
    assert not respelt(layer.eval(), torch.randn(2, 4, 3, 5))


def test_ranks_have_to_be_known() -> None:
    assert not respelt(nn.Conv1d(4, 6, 3).eval(), torch.randn(2, 4, 9), known=False)


def test_both_run_on_int8() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(8, 8, 2, 2), nn.Flatten(2), nn.Conv1d(8, 8, 3)).eval()
    x = torch.randn(2, 8, 4, 4)
    gm = fxquant.quantize(model, [x], recipe="minmax")
    assert fxquant.report(gm).coverage == 1.0
    assert (gm(x) - model(x)).norm() < 0.05 * model(x).norm()
