"""The operators of the dialect: each has one name, and none can do harm."""

from __future__ import annotations

import operator
import os
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx

from fxquant.dialect import functions, vocabulary

GRAPH = fx.Graph()
X = GRAPH.placeholder("x")


def test_every_name_finds_its_function_and_back() -> None:
    for name, function in functions.functions().items():
        found = vocabulary.name_of(function)
        assert found is not None
        assert vocabulary.function_named(found) is function
        assert vocabulary.function_named(name) is function


@pytest.mark.parametrize("name", ["aten.gelu", "aten.gelu.default", "aten.sort.stable"])
def test_operators_have_names_too(name: str) -> None:
    assert vocabulary.name_of(vocabulary.function_named(name)) == name


def test_functions_of_timm_are_found_and_no_other_attribute_of_it() -> None:
    for name in vocabulary._TIMM:
        function = vocabulary.function_named(f"timm.{name}")
        if function is not None:  # some are younger than others
            assert vocabulary.name_of(function) == f"timm.{name}"
    assert vocabulary.function_named("timm.create_model") is None
    assert vocabulary.function_named("timm.layers.attention.os") is None
    assert vocabulary.function_named("layers.attention.maybe_add_mask") is None


REACHING: list[Any] = [os.system, eval, open, print, setattr, torch.load, torch.save, torch.empty, operator.setitem]


@pytest.mark.parametrize("function", [*REACHING, operator.attrgetter, [], None, "torch.add"])
def test_functions_that_reach_beyond_their_arguments_are_not_in_it(function: Any) -> None:
    assert vocabulary.name_of(function) is None


@pytest.mark.parametrize(
    ("op", "target", "args", "kwargs"),
    [
        ("call_function", F.linear, (X, X), {}),
        ("call_function", getattr, (X, "shape"), {}),
        ("call_function", F.normalize, (X,), {"out": None}),
        ("call_function", torch.ops.aten.linear.default, (X, X), {}),
        ("call_method", "reshape", (X, -1), {}),
    ],
)
def test_calls_in_it(op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert vocabulary.refusal(op, target, args, kwargs) is None


@pytest.mark.parametrize(
    ("op", "target", "args", "kwargs", "reason"),
    [
        ("call_function", os.system, ("true",), {}, f"the function {os.name}.system is not in the dialect"),
        ("call_function", torch.ops.aten.add_.Tensor, (X, X), {}, "aten.add_.Tensor is not in the dialect"),
        ("call_function", getattr, (X, "__class__"), {}, "getattr expects"),
        ("call_function", getattr, (X, "shape", ()), {}, "getattr expects"),
        ("call_function", torch.add, (X, X), {"out": X}, "out= writes"),
        ("call_method", "numpy", (X,), {}, "the tensor method 'numpy' is not in the dialect"),
        ("call_method", "resize", (X, 3), {}, "'resize' is not in the dialect: it gives out memory that nobody wrote"),
        ("call_function", torch.randn, ((1,),), {}, "randn is not in the dialect: it draws random numbers"),
        ("call_method", "reshape", (), {}, "expected the tensor"),
        ("call_method", "split", ("a b",), {}, "expected the tensor"),
    ],
)
def test_calls_outside_of_it(op: str, target: Any, args: Any, kwargs: dict[str, Any], reason: str) -> None:
    assert reason in (vocabulary.refusal(op, target, args, kwargs) or "")
