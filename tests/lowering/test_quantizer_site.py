"""`quantizer_site` reads every operator that makes codes, or reads them, as one form, and builds it again."""

from __future__ import annotations

import inspect
import operator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from fxquant import ops
from fxquant.graph.calls import call as build
from fxquant.kernels.cpu.schemas import KERNELS
from fxquant.lowering.quantizer_site import (
    QuantizerSite,
    dequantize_node,
    quantize_node,
    quantizer_arguments,
    quantizer_behind,
    quantizer_site,
)

NAMES = ("x", "k", "v", "weight", "w_scale", "bias", "scale", "zero", "low", "split", "noise")
LINEAR = ("x", "weight", "w_scale", "bias", "none", torch.float32, False)
GEMM = ("x", "weight", "bias", "w_scale", None, "bias", None, None)
# Arguments, then what is read of them: scale, zero_point, low, split, noise, qmin, qmax, axis.
CASES: dict[str, tuple[Any, tuple[Any, ...], tuple[Any, ...]]] = {
    "quantize": (ops.quantize, ("x", "scale", "zero", 0, 255), ("scale", "zero", None, None, None, 0, 255, None)),
    "per channel": (ops.quantize, ("x", "scale", None, -8, 7, 1), ("scale", None, None, None, None, -8, 7, 1)),
    "noise": (
        ops.quantize,
        ("x", "scale", None, 0, 255, None, "noise"),
        ("scale", None, None, None, "noise", 0, 255, None),
    ),
    "twin": (
        ops.quantize_twin,
        ("x", "scale", "low", "split", -127, 127),
        ("scale", None, "low", "split", None, -127, 127, None),
    ),
    "twin, noise": (
        ops.quantize_twin,
        ("x", "scale", "low", "split", -127, 127, "noise"),
        ("scale", None, "low", "split", "noise", -127, 127, None),
    ),
    "dequantize": (ops.dequantize, ("x", "scale", "zero", 0, 255), ("scale", "zero", None, None, None, 0, 255, None)),
    "dequantize per channel": (
        ops.dequantize,
        ("x", "scale", None, -128, 127, 0),
        ("scale", None, None, None, None, -128, 127, 0),
    ),
    "dequantize twin": (
        ops.dequantize_twin,
        ("x", "scale", "low", "split", -127, 127),
        ("scale", None, "low", "split", None, -127, 127, None),
    ),
    "layer norm": (
        ops.layer_norm_quantize,
        ("x", "weight", "bias", 1e-6, "scale", "zero", 0, 255, "noise"),
        ("scale", "zero", None, None, "noise", 0, 255, None),
    ),
    "integer layer norm": (
        ops.integer_layer_norm,
        ("x", "w_scale", "k", 255, "weight", "bias", "scale", "zero", 0, 255),
        ("scale", "zero", None, None, None, 0, 255, None),
    ),
    "attention": (
        ops.attention_quantize,
        ("x", "k", "v", 0.5, "bias", None, "scale", "zero", 0, 255),
        ("scale", "zero", None, None, None, 0, 255, None),
    ),
    "GELU": (
        ops.int8_linear_gelu_quantize,
        (*LINEAR, "scale", "zero", 0, 255),
        ("scale", "zero", None, None, None, 0, 255, None),
    ),
    "GELU, twin": (
        ops.int8_linear_gelu_quantize_twin,
        (*LINEAR, "scale", "low", "split", -127, 127, "noise"),
        ("scale", None, "low", "split", "noise", -127, 127, None),
    ),
    "kernel": (
        KERNELS.cpu_quantize.default,
        ("x", "scale", None, "low", "split", -127, 127, "noise"),
        ("scale", None, "low", "split", "noise", -127, 127, None),
    ),
    "kernel of layer norm": (
        KERNELS.cpu_layer_norm_quantize.default,
        ("x", "weight", "bias", 1e-6, "scale", "zero", 0, 255, None),
        ("scale", "zero", None, None, None, 0, 255, None),
    ),
    "kernel of attention": (
        KERNELS.cpu_attention.default,
        ("x", "k", "v", 0.5, "bias", None, "scale", "zero", 0, 255, None),
        ("scale", "zero", None, None, None, 0, 255, None),
    ),
    "kernel of linear": (
        KERNELS.cpu_gemm.default,
        (*GEMM, "scale", None, "low", "split", "noise", -127, 127, True),
        ("scale", None, "low", "split", "noise", -127, 127, None),
    ),
}
UNIFORM = ("scale", "zero", None, None, None, 0, 255, None)
TWIN = ("scale", None, "low", "split", None, -127, 127, None)


@pytest.fixture
def nodes() -> dict[str, fx.Node]:
    graph = fx.Graph()
    return {name: graph.placeholder(name) for name in NAMES}


def call(nodes: dict[str, fx.Node], target: Any, *args: Any) -> fx.Node:
    return nodes["x"].graph.call_function(target, tuple(nodes.get(a, a) for a in args))


def site(nodes: dict[str, fx.Node], *steps: Any) -> QuantizerSite:
    return QuantizerSite(nodes["x"], *(nodes.get(step, step) for step in steps))


@pytest.mark.parametrize("name", CASES)
def test_reads(name: str, nodes: dict[str, fx.Node]) -> None:
    target, args, steps = CASES[name]
    assert quantizer_site(call(nodes, target, *args)) == site(nodes, *steps)


@pytest.mark.parametrize("name", CASES)
def test_writes_what_it_reads(name: str, nodes: dict[str, fx.Node]) -> None:
    target, args, steps = CASES[name]
    node = call(nodes, target, *args)
    written = quantizer_arguments(site(nodes, *steps), target)
    rest = {key: value for key, value in zip_names(target, node.args).items() if key not in written}
    again = build(node.graph, target, rest | written)
    assert again.args == node.args


def zip_names(target: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    """Return `args` by name, from the signature itself."""

    schema = getattr(target, "_schema", None)
    names = [a.name for a in schema.arguments] if schema else list(inspect.signature(target).parameters)
    return dict(zip(names, args, strict=False))


@pytest.mark.parametrize(
    "args", [("scale", "zero", 0, 255), ("scale", None, -8, 7, 1), ("scale", None, 0, 255, None, "noise")]
)
def test_builds_quantize(args: tuple[Any, ...], nodes: dict[str, fx.Node]) -> None:
    node = call(nodes, ops.quantize, "x", *args)
    found = quantizer_site(node)
    assert found is not None
    again, back = quantize_node(node.graph, found), dequantize_node(node.graph, found, node)
    assert (again.target, again.args) == (ops.quantize, node.args)
    expected = node.args[1:5] if found.axis is None else node.args[1:6]
    assert (back.target, back.args) == (ops.dequantize, (node, *expected))


def test_builds_quantize_twin(nodes: dict[str, fx.Node]) -> None:
    node = call(nodes, ops.quantize_twin, "x", "scale", "low", "split", -127, 127, "noise")
    found = quantizer_site(node)
    assert found is not None
    again, back = quantize_node(node.graph, found), dequantize_node(node.graph, found, node)
    assert (again.target, again.args) == (ops.quantize_twin, node.args)
    assert (back.target, back.args) == (ops.dequantize_twin, (node, *node.args[1:6]))


@pytest.mark.parametrize(
    ("target", "steps", "field"),
    [
        (ops.layer_norm_quantize, (*UNIFORM[:-1], 1), "axis"),
        (ops.layer_norm_quantize, TWIN, "low"),
        (ops.quantize_twin, UNIFORM, "zero_point"),
    ],
)
def test_refuses_a_step_that_an_operator_does_not_have(
    target: Any, steps: tuple[Any, ...], field: str, nodes: dict[str, fx.Node]
) -> None:
    with pytest.raises(ValueError, match=f"no argument for the {field}"):
        quantizer_arguments(site(nodes, *steps), target)


def test_a_dequantize_undoes_its_own_quantize_alone(nodes: dict[str, fx.Node]) -> None:
    made, read = (site(nodes, *UNIFORM) for _ in range(2))
    assert read.undoes(replace(made, source=nodes["k"], noise=nodes["noise"]))
    assert not read.undoes(replace(made, qmax=127))
    assert not read.undoes(replace(made, scale=nodes["w_scale"]))


def test_steps_are_those_of_the_kernels(nodes: dict[str, fx.Node]) -> None:
    assert site(nodes, *TWIN).steps == (nodes["scale"], None, nodes["low"], nodes["split"], None, -127, 127)
    assert site(nodes, *TWIN).scales == (nodes["scale"], nodes["low"])
    assert site(nodes, *UNIFORM).scales == (nodes["scale"],)


def test_finds_the_quantizer_behind_moves(nodes: dict[str, fx.Node]) -> None:
    node = call(nodes, ops.quantize, "x", "scale", "zero", 0, 255)
    moved = node.graph.call_method("reshape", (node.graph.call_method("permute", (node, 1, 0)), -1))
    assert quantizer_behind(moved) == quantizer_behind(node) == site(nodes, *UNIFORM)
    patches = call(nodes, ops.extract_patches, node, (4, 4), (4, 4), (0, 0), "zero", 255)
    assert quantizer_behind(patches) == site(nodes, *UNIFORM)
    assert quantizer_behind(nodes["x"]) is None
    assert quantizer_behind(node.graph.call_function(torch.cat, ([node, node],))) is None


@pytest.mark.parametrize("target", [torch.relu, operator.neg, torch.abs])
def test_looks_behind_nothing_that_computes(target: Any, nodes: dict[str, fx.Node]) -> None:
    node = call(nodes, ops.quantize, "x", "scale", "zero", 0, 255)
    assert quantizer_behind(node.graph.call_function(target, (node,))) is None
    product = call(nodes, ops.int8_linear, node, "weight", "w_scale", "bias", None, None, torch.float32, False)
    assert quantizer_behind(product) is None


@pytest.mark.parametrize("shape", [(4,), (3, 2, 2)])
def test_noise_of_a_patch_has_its_axes(shape: tuple[int, ...]) -> None:
    module = nn.Module()
    module.register_buffer("noise", torch.zeros(shape))
    graph = fx.Graph()
    x, noise = graph.placeholder("x"), graph.get_attr("noise")
    fx.GraphModule(module, graph)
    found = QuantizerSite(x, x, None, None, None, noise, 0, 255)
    assert found.noise_per_patch() == (len(shape) > 1)
    assert not replace(found, noise=None).noise_per_patch()


@pytest.mark.parametrize(
    ("target", "args"),
    [
        (F.layer_norm, ("x", (4,))),
        (ops.quantize_log2, ("x", 15)),
        (ops.dequantize_log2, ("x",)),
        (ops.log_int_softmax, ("x", "scale", 15)),
        (ops.int8_linear, ("x", "weight", "scale", "bias", None, None, torch.float32, False)),
        (KERNELS.cpu_gemm.default, (*GEMM, None, None, None, None, None, 0, 0, True)),
    ],
)
def test_nothing_else(target: Any, args: tuple[Any, ...], nodes: dict[str, fx.Node]) -> None:
    assert quantizer_site(call(nodes, target, *args)) is None


@pytest.mark.parametrize("value", [None, 3, "x"])
def test_what_is_no_node_is_none(value: object) -> None:
    assert quantizer_site(value) is None
    assert quantizer_behind(value) is None
