"""A program takes what the graph takes: any batch, any size of image where it is free, masks that broadcast."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import InputError
from fxquant.torch_export.free_program import free_program
from tests.support.models import Conditioned, conditions


class Pooled(nn.Module):
    """A convolution of images of any size, and the mean of its pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, 4)``."""
        return self.stem(x).mean((2, 3))


def simulated(model: nn.Module, example: tuple[Tensor, ...]) -> fx.GraphModule:
    prepared = fxquant.prepare(model.eval(), fxquant.recipe("minmax"), example)
    return fxquant.convert(fxquant.calibrate(prepared, [example], progress=False), "fake")


def test_sizes_are_free_where_the_graph_takes_them_and_one_image_may_have_calibrated_it() -> None:
    gm = simulated(Pooled(), (torch.randn(1, 3, 8, 8),))
    module = free_program(gm).module()
    for shape in ((1, 3, 8, 8), (5, 3, 8, 8), (2, 3, 12, 6)):
        x = torch.randn(shape)
        assert torch.equal(module(x), gm(x))


def test_a_batch_that_is_given_fixes_all_sizes() -> None:
    program = free_program(simulated(Pooled(), (torch.randn(4, 3, 8, 8),)), batch=3)
    assert program.module()(torch.randn(3, 3, 8, 8)).shape == (3, 4)
    assert not program.range_constraints


@pytest.mark.parametrize("boolean", [False, True])
def test_a_mask_for_all_heads_stays_one(boolean: bool) -> None:
    gm = simulated(Conditioned(boolean), conditions(boolean))
    given = conditions(boolean, batch=3, seed=1)
    assert torch.equal(free_program(gm).module()(*given), gm(*given))


def test_refuses_a_graph_without_shapes() -> None:
    gm = simulated(Pooled(), (torch.randn(4, 3, 8, 8),))
    gm.graph.find_nodes(op="placeholder")[0].meta.clear()
    with pytest.raises(InputError, match="found none for 'x'"):
        free_program(gm)
