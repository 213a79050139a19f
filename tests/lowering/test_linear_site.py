"""`linear_site` reads every int8 linear operator, whichever steps it has, as one form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from fxquant import ops
from fxquant.lowering.linear_site import LinearSite, linear_site
from fxquant.lowering.quantized import INT8_LINEARS
from fxquant.lowering.quantizer_site import QuantizerSite

NAMES = ("codes", "weight", "scale", "bias", "low", "residual", "out_scale", "out_zero", "out_low", "split", "noise")


@pytest.fixture
def nodes() -> dict[str, fx.Node]:
    graph = fx.Graph()
    return {name: graph.placeholder(name) for name in NAMES}


def call(nodes: dict[str, fx.Node], target: Any, *args: Any) -> fx.Node:
    given = tuple(nodes.get(a, a) for a in args)
    return nodes["codes"].graph.call_function(target, given)


BASE = ("codes", "weight", "scale")
CASES: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "linear": (ops.int8_linear, (*BASE, "bias", None, None, torch.float32, False), {"dtype": torch.float32}),
    "affine weight": (
        ops.int8_linear,
        (*BASE, "bias", "out_zero", "split", torch.float16, True),
        {"dtype": torch.float16, "weight_zero_point": "out_zero"},
    ),
    "residual": (
        ops.int8_linear_add,
        (*BASE, "bias", "residual", torch.bfloat16, False),
        {"dtype": torch.bfloat16, "residual": "residual"},
    ),
    "scales of rows": (
        ops.int8_linear,
        (*BASE, "bias", None, None, torch.float32, False, "out_scale", "out_zero"),
        {"dtype": torch.float32, "row_scale": "out_scale", "row_zero_point": "out_zero"},
    ),
    "twin": (
        ops.int8_linear_twin,
        (*BASE, "low", "bias", torch.float32, False),
        {"dtype": torch.float32, "low": "low"},
    ),
    "twin, residual": (
        ops.int8_linear_twin_add,
        (*BASE, "low", "bias", "residual", torch.bfloat16, False),
        {"dtype": torch.bfloat16, "low": "low", "residual": "residual"},
    ),
    "GELU": (
        ops.int8_linear_gelu_quantize,
        (*BASE, "bias", "tanh", torch.float32, False, "out_scale", "out_zero", 0, 255),
        {
            "dtype": torch.float32,
            "gelu": "tanh",
            "quantizer": ("out_scale", "out_zero", None, None, None, 0, 255),
        },
    ),
    "GELU, noise": (
        ops.int8_linear_gelu_quantize,
        (*BASE, "bias", "none", torch.float32, False, "out_scale", None, -8, 7, "noise"),
        {"dtype": torch.float32, "gelu": "none", "quantizer": ("out_scale", None, None, None, "noise", -8, 7)},
    ),
    "GELU to twin": (
        ops.int8_linear_gelu_quantize_twin,
        (*BASE, "bias", "none", torch.float32, False, "out_scale", "out_low", "split", -127, 127),
        {
            "dtype": torch.float32,
            "gelu": "none",
            "quantizer": ("out_scale", None, "out_low", "split", None, -127, 127),
        },
    ),
    "GELU to twin, noise": (
        ops.int8_linear_gelu_quantize_twin,
        (*BASE, "bias", "none", torch.float32, False, "out_scale", "out_low", "split", -127, 127, "noise"),
        {
            "dtype": torch.float32,
            "gelu": "none",
            "quantizer": ("out_scale", None, "out_low", "split", "noise", -127, 127),
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_reads(name: str, nodes: dict[str, fx.Node]) -> None:
    target, args, steps = CASES[name]

    def node_of(value: Any) -> Any:
        if isinstance(value, tuple):
            return QuantizerSite(nodes["codes"], *(node_of(v) for v in value))
        return nodes[value] if isinstance(value, str) and value in nodes else value

    found = linear_site(call(nodes, target, *args))
    expected = LinearSite(*(nodes[n] for n in (*BASE, "bias")), **{key: node_of(v) for key, v in steps.items()})  # type: ignore[arg-type]
    assert found == expected


def test_knows_every_int8_linear_operator() -> None:
    assert {target for target, _, _ in CASES.values()} == set(INT8_LINEARS)


@pytest.mark.parametrize("target", [ops.int8_matmul, ops.quantize, torch.nn.functional.linear])
def test_nothing_else(target: Any, nodes: dict[str, fx.Node]) -> None:
    assert linear_site(call(nodes, target, "codes", "weight", "scale")) is None
    assert linear_site(nodes["codes"]) is None
