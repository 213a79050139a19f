"""Shapes without computing, and which axes of an input a model leaves free."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import InputError
from fxquant.shapes import propagate_shapes, varying_axes
from tests.helpers import module_of
from tests.models import images, small_vit


def test_every_node_knows_its_value_on_the_meta_device() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        return x.bfloat16().chunk(2, dim=-1), x.shape[0]

    gm = fxquant.trace(module_of(forward))
    propagate_shapes(gm, (torch.randn(3, 4),))
    values = {n.name: n.meta.get("val") for n in gm.graph.nodes}
    assert values["bfloat16"].is_meta
    assert values["bfloat16"].dtype is torch.bfloat16
    assert [tuple(part.shape) for part in values["chunk"]] == [(3, 2), (3, 2)]
    assert values["getitem"] == 3


def test_weights_are_not_computed_with() -> None:
    gm = fxquant.trace(nn.Linear(4, 4).eval())
    versions = [p._version for p in gm.parameters()]
    propagate_shapes(gm, (torch.full((2, 4), float("nan")),))
    assert [p._version for p in gm.parameters()] == versions


def test_an_input_that_does_not_fit_names_the_node() -> None:
    gm = fxquant.trace(nn.Sequential(nn.GELU(), nn.Linear(4, 4)).eval())
    with pytest.raises(InputError, match=r"input of shape \(2, 5\): node 'linear' stops with RuntimeError"):
        propagate_shapes(gm, (torch.randn(2, 5),))


def _rows(self: Any, x: Tensor) -> Tensor:
    return F.linear(x, self.w)


def _two(self: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.linear(x, self.w) + y.flatten(1).sum(1)[:, None, None]


@pytest.mark.parametrize(
    ("forward", "shapes", "index", "free"),
    [
        (_rows, [(2, 5, 4)], 0, (0, 1)),
        (_two, [(2, 5, 4), (2, 3, 3)], 0, (0, 1)),
        (_two, [(2, 5, 4), (2, 3, 3)], 1, (0, 1, 2)),
    ],
)
def test_axes_that_may_vary(forward: Any, shapes: list[tuple[int, ...]], index: int, free: tuple[int, ...]) -> None:
    gm = fxquant.trace(module_of(forward, w=torch.randn(4, 4)))
    assert varying_axes(gm, [torch.randn(s) for s in shapes], index) == free


def test_a_model_bound_to_its_image_size_frees_the_batch_alone(caplog: pytest.LogCaptureFixture) -> None:
    gm = fxquant.trace(small_vit(), images(2))
    before = {n.name: n.meta["val"] for n in gm.graph.nodes if n.op != "output"}
    with caplog.at_level(logging.DEBUG):
        assert varying_axes(gm, [images(2)], 0) == (0,)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING], "a refused size is an answer, not an error"
    assert all(n.meta["val"] is before[n.name] for n in gm.graph.nodes if n.op != "output")
