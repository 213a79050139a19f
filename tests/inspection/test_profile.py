"""Attribution of time: every node has one class, and nothing is lost."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx

import fxquant
import fxquant.ops
from fxquant.inspection.profile import CLASSES, OpClass, classify, profile_graph
from tests.support.models import images, small_vit


def node(op: str, target: Any) -> fx.Node:
    graph = fx.Graph()
    return graph.create_node(op, target, (graph.placeholder("x"),))


@pytest.mark.parametrize(
    ("op", "target", "op_class"),
    [
        ("call_function", F.linear, OpClass.PRODUCTS),
        ("call_function", torch.matmul, OpClass.PRODUCTS),
        ("call_function", operator.matmul, OpClass.PRODUCTS),
        ("call_function", torch.ops.aten.bmm.default, OpClass.PRODUCTS),
        ("call_function", fxquant.ops.int8_linear, OpClass.PRODUCTS),
        ("call_function", fxquant.ops.quantize, OpClass.QUANTISE),
        ("call_function", F.layer_norm, OpClass.NORMALISATION),
        ("call_function", F.gelu, OpClass.ACTIVATION),
        ("call_function", F.softmax, OpClass.ATTENTION),
        ("call_function", F.scaled_dot_product_attention, OpClass.ATTENTION),
        ("call_method", "softmax", OpClass.ATTENTION),
        ("call_function", operator.add, OpClass.REST),
        ("call_method", "reshape", OpClass.REST),
        ("get_attr", "weight", OpClass.REST),
    ],
)
def test_class_of_a_node(op: str, target: Any, op_class: OpClass) -> None:
    assert classify(node(op, target)) is op_class


def test_no_operator_has_two_classes() -> None:
    names = [name for listed in CLASSES.values() for name in listed]
    assert len(set(names)) == len(names)


def test_every_operator_that_computes_products_or_codes_has_a_class() -> None:
    rest = {name for name in fxquant.ops.__all__ if not any(name in listed for listed in CLASSES.values())}
    assert rest == {
        "check_input",
        "check_values",
        "extract_patches",
        "interpolate_scaled",
        "make_output",
        "mark_invalid",
    }


@pytest.mark.parametrize("int8", [True, False])
def test_all_time_is_attributed(int8: bool) -> None:
    model, batch = small_vit(), images(2)
    gm = fxquant.quantize(model, [batch], recipe="minmax", progress=False) if int8 else fxquant.trace(model)
    profile = profile_graph(gm, (batch,), rounds=2)
    assert sum(profile.share(op_class) for op_class in OpClass) == pytest.approx(1)
    for op_class, seconds in profile.seconds.items():
        assert seconds == pytest.approx(sum(profile.operators[op_class].values()))
    values = list(profile.operators[OpClass.REST].values())
    assert values == sorted(values, reverse=True)
    assert profile.seconds[OpClass.PRODUCTS] > 0
    if not int8:
        assert profile.seconds[OpClass.QUANTISE] == 0
    assert set(profile.as_json()) == {op_class.value for op_class in OpClass}


def test_an_empty_graph_has_no_shares() -> None:
    profile = profile_graph(fx.symbolic_trace(torch.nn.Identity()), (torch.zeros(1),), rounds=1)
    assert profile.total == 0
    assert profile.share(OpClass.PRODUCTS) == 0
