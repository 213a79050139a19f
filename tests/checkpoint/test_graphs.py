"""Arguments of every kind come back, and what a file cannot hold is named."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn

import fxquant
from fxquant.graph.stages import Stage
from tests.support.checkpoints import assert_same, round_trip


def graph_of(build: Callable[[fx.Graph, fx.Node], fx.Node]) -> fx.GraphModule:
    """Return a FLOAT graph module of one input, built by hand."""
    graph = fx.Graph()
    graph.output(build(graph, graph.placeholder("x")))
    gm = fx.GraphModule(nn.Module(), graph).eval()
    gm.meta["stage"] = Stage.FLOAT
    return gm


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (torch.full, ((2, 3), float("inf")), {"dtype": torch.float64, "device": torch.device("cpu")}),
        (torch.full, (torch.Size([2, 3]), float("nan")), {"layout": torch.strided}),
        (torch.zeros, ([2, 3],), {"dtype": None, "requires_grad": False}),
        (torch.arange, (-(2**63), 2**63 - 1, 2**62), {}),
        (torch.full, ((1,), -1e-300), {"dtype": torch.float64}),
        (torch.einsum, ("ij->ji", fx.Node), {}),
    ],
)
def test_kinds_of_arguments(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tmp_path: Path) -> None:
    gm = graph_of(lambda graph, x: graph.call_function(function, tuple(x if a is fx.Node else a for a in args), kwargs))
    loaded = round_trip(gm, tmp_path)
    for node, other in zip(loaded.graph.nodes, gm.graph.nodes, strict=True):
        assert repr((node.args, node.kwargs)) == repr((other.args, other.kwargs))


def test_indexing_with_slices_and_ellipsis(tmp_path: Path) -> None:
    index: Any = (..., slice(None, -1, 2), None, slice(1, None))
    gm = graph_of(lambda graph, x: graph.call_function(operator.getitem, (x, index)))
    x = torch.randn(2, 4, 6)
    assert_same(gm, round_trip(gm, tmp_path), [x])


def test_memory_format_and_dict_arguments(tmp_path: Path) -> None:
    gm = graph_of(lambda graph, x: graph.call_method("contiguous", (x,), {"memory_format": torch.channels_last}))
    assert_same(gm, round_trip(gm, tmp_path), [torch.randn(1, 2, 3, 3)])
    gm = graph_of(lambda graph, x: x)
    gm.graph.output_node().args = ({"logits": gm.graph.find_nodes(op="placeholder")[0], "extra": (1, [])},)
    gm.recompile()
    assert round_trip(gm, tmp_path)(torch.ones(1)) == {"logits": torch.ones(1), "extra": (1, [])}


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda graph, x: graph.call_function(print, (x,)), "print"),
        (lambda graph, x: graph.call_function(torch.save, (x, "f")), "torch.serialization.save"),
        (lambda graph, x: graph.call_function(torch.mul, (x, complex(1, float("nan")))), "finite complex"),
        (lambda graph, x: graph.call_function(getattr, (x, "__class__")), "__class__"),
        (lambda graph, x: graph.call_method("numpy", (x,)), "numpy"),
        (lambda graph, x: graph.call_function(torch.add, (x, 1), {"out": x}), "out"),
        (lambda graph, x: graph.call_function(torch.full, ((1,), 2**70)), "64 bits"),
    ],
)
def test_what_cannot_be_stored_is_named(build: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(fxquant.CheckpointError, match=named):
        fxquant.save(graph_of(build), tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())
