"""Calls of operators are read and built by the names of their arguments."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from fxquant import ops
from fxquant.graph.calls import arguments_of, call, call_again, named, parameters
from fxquant.kernels.cpu.schemas import KERNELS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def graph() -> fx.Graph:
    return fx.Graph()


def test_reads_positions_keywords_and_defaults_alike(graph: fx.Graph) -> None:
    x, scale = graph.placeholder("x"), graph.placeholder("scale")
    expected = {"x": x, "scale": scale, "zero_point": None, "qmin": 0, "qmax": 255, "axis": None, "noise": None}
    for args, kwargs in (((x, scale, None, 0, 255), {}), ((x, scale, None, 0), {"qmax": 255, "noise": None})):
        assert arguments_of(graph.call_function(ops.quantize, args, kwargs)) == expected  # type: ignore[arg-type]


def test_builds_what_it_reads(graph: fx.Graph) -> None:
    x, scale, noise = (graph.placeholder(name) for name in ("x", "scale", "noise"))
    arguments = {"qmax": 255, "x": x, "scale": scale, "zero_point": None, "qmin": 0}
    assert call(graph, ops.quantize, arguments).args == (x, scale, None, 0, 255)
    assert call(graph, ops.quantize, arguments, spelled_out=True).args == (x, scale, None, 0, 255, None, None)
    assert call(graph, ops.quantize, arguments | {"noise": noise}).args == (x, scale, None, 0, 255, None, noise)


def test_arguments_without_a_default_stay(graph: fx.Graph) -> None:
    x = graph.placeholder("x")
    arguments: dict[str, Any] = {"a": x, "b": x, "scale": x, "a_zero_point": None, "b_zero_point": None}
    node = call(graph, ops.int8_matmul, arguments | {"dtype": torch.float32})
    assert node.args == (x, x, x, None, None, torch.float32)


def test_calls_again_with_one_argument_changed(graph: fx.Graph) -> None:
    x, y = graph.placeholder("x"), graph.placeholder("y")
    node = graph.call_function(ops.quantize, (x, x, None, 0, 255))
    again = call_again(graph, node, x=y)
    assert (again.target, again.args) == (ops.quantize, (y, x, None, 0, 255))
    assert node.args[0] is x


def test_says_which_argument_is_wrong(graph: fx.Graph) -> None:
    x = graph.placeholder("x")
    with pytest.raises(TypeError, match="quantize expected the argument 'scale'"):
        named(ops.quantize, (x,), {})
    with pytest.raises(TypeError, match="quantize has no argument 'split'"):
        call(graph, ops.quantize, {"x": x, "split": x})


def test_knows_the_operators_of_the_kernels() -> None:
    names = list(parameters(KERNELS.cpu_quantize.default))
    assert names == ["x", "scale", "zero_point", "low", "split", "qmin", "qmax", "noise"]


def pads_and_cuts(node: ast.AST) -> bool:
    """Say whether `node` is of the kind ``(*node.args, None, None)[:7]``, which counts the arguments of an operator."""
    cut = isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice) and isinstance(node.value, ast.Tuple)
    return cut and any(isinstance(part, ast.Starred) for part in node.value.elts)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("line", "expected"),
    [("(*node.args, None, None)[:7]", True), ("(*given, 1)[2:]", True), ("node.args[:2]", False), ("(*a, b)", False)],
)
def test_knows_a_padded_argument_list(line: str, expected: bool) -> None:
    assert any(pads_and_cuts(node) for node in ast.walk(ast.parse(line))) is expected


def test_no_module_counts_arguments() -> None:
    files = [f for folder in ("fxquant", "passes", "bench") for f in (ROOT / folder).rglob("*.py")]
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"  # type: ignore[attr-defined]
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if pads_and_cuts(node)
    ]
    assert not found, "\n".join(found)
