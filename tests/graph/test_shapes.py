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
from fxquant.graph.shapes import Sizes, propagate_shapes, sizes_of, varying_axes
from tests.support.check_pass import module_of
from tests.support.models import images, small_vit


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


def converted(forward: Any, x: Tensor) -> tuple[Any, Sizes | None]:
    prepared = fxquant.prepare(module_of(forward, w=torch.eye(4)), fxquant.recipe("minmax"))
    prepared(x)
    gm = fxquant.convert(prepared, "fake")
    propagate_shapes(gm, [x])
    return gm, sizes_of(gm)


def named(values: dict[Any, Any]) -> dict[str, Any]:
    return {node.name: value for node, value in values.items()}


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_sizes_that_are_constant_and_sizes_that_vary(batch: int) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        images, tokens, width = x.shape
        y = F.linear(x, self.w) + self.w[:, 0].expand(5, 4)
        return y.view(images * tokens, width) + (tokens == 5) + 2 * images

    _, sizes = converted(forward, torch.randn(batch, 5, 4))
    assert sizes is not None
    constant, varying, shapes = (named(found) for found in (sizes.constant, sizes.varying, sizes.shapes))
    assert (constant["getitem_1"], constant["getitem_2"]) == (5, 4)
    assert constant["eq"] is True
    assert varying["getitem"] == sizes.batches
    assert sizes.batches[0] == batch
    assert len(set(sizes.batches)) == len(sizes.batches) >= 3
    assert varying["mul"] == tuple(5 * n for n in sizes.batches)
    assert shapes["linear"] == (None, 5, 4)
    assert shapes["view"] == (None, 4)


def test_sizes_of_a_free_axis_vary() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        pad = (7 - x.shape[1] % 7) % 7
        return F.linear(F.pad(x, (0, 0, 0, pad)), self.w)

    _, sizes = converted(forward, torch.randn(2, 14, 4))
    assert sizes is not None
    numbers = {name: value for name, value in named(sizes.constant).items() if "mod" in name}
    assert not numbers, "14, 28 and 42 need no padding, other sizes do"
    assert named(sizes.shapes)["pad"] == (None, None, 4)


def test_a_batch_that_is_not_free_has_no_sizes() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return F.linear(x.view(x.shape[0] // 4, 4, 20), self.v)

    module = module_of(forward, v=torch.randn(4, 20))
    prepared = fxquant.prepare(module, fxquant.recipe("minmax"))
    prepared(torch.randn(8, 5, 4))
    gm = fxquant.convert(prepared)
    assert gm(torch.randn(4, 5, 4)).shape == (1, 4, 4)


def test_unknown_sizes() -> None:
    gm = fxquant.trace(module_of(_rows, w=torch.randn(4, 4)))
    assert sizes_of(gm) is None, "nothing checks the input"
    gm, sizes = converted(_rows, torch.randn(2, 5, 4))
    assert sizes is not None
    for node in gm.graph.nodes:
        node.meta.pop("val", None)
    assert sizes_of(gm) is None


def test_a_shape_that_loses_an_axis_is_unknown() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return F.linear(x, self.w).squeeze()

    gm, sizes = converted(forward, torch.randn(1, 5, 4))
    assert sizes is not None
    assert "squeeze" not in named(sizes.shapes) or named(sizes.shapes)["squeeze"] != (5, 4)
    assert gm(torch.randn(2, 5, 4)).shape == (2, 5, 4)
