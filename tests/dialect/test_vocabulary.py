"""The closed list of operators: each has one name, and none can do harm."""

from __future__ import annotations

import operator
import os
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx

import fxquant.ops
from fxquant.dialect import vocabulary
from fxquant.dialect.aten_table import ROWS
from fxquant.dialect.spellings import SPELLINGS

GRAPH = fx.Graph()
X = GRAPH.placeholder("x")


def test_every_name_finds_its_function_and_back() -> None:
    for name, function in vocabulary._functions().items():
        found = vocabulary.name_of(function)
        assert found is not None
        assert vocabulary.function_named(found) is function
        assert vocabulary.function_named(name) is function


def test_functions_of_timm_are_found_and_no_other_attribute_of_it() -> None:
    for name in vocabulary._TIMM:
        function = vocabulary.function_named(f"timm.{name}")
        if function is not None:  # some are younger than others
            assert vocabulary.name_of(function) == f"timm.{name}"
    assert vocabulary.function_named("timm.create_model") is None
    assert vocabulary.function_named("timm.layers.attention.os") is None
    assert vocabulary.function_named("layers.attention.maybe_add_mask") is None


def test_all_operators_of_fxquant_are_in_it() -> None:
    for name in fxquant.ops.__all__:
        assert vocabulary.function_named(f"fxquant.ops.{name}") is getattr(fxquant.ops, name)


def test_every_canonical_spelling_is_in_it() -> None:
    for spelling in SPELLINGS.values():
        assert isinstance(spelling, str) or vocabulary.name_of(spelling) is not None, spelling


def test_every_spelling_of_an_exported_operator_is_in_it() -> None:
    for spelling, _ in ROWS.values():
        if isinstance(spelling, str):
            assert spelling.removesuffix("_") in vocabulary.METHODS, spelling
        else:
            assert vocabulary.name_of(spelling) is not None, spelling


@pytest.mark.parametrize("name", vocabulary.ATEN)
def test_no_overload_writes_to_its_arguments(name: str) -> None:
    overload = vocabulary.function_named(f"aten.{name}")
    if overload is not None:
        assert not overload._schema.is_mutable  # type: ignore[attr-defined]


def test_no_operator_works_in_place() -> None:
    for name in (*vocabulary._functions(), *vocabulary.METHODS):
        assert not name.endswith("_") or name in ("operator.and_", "operator.or_", "operator.not_"), name
    assert all(hasattr(Tensor, name) for name in vocabulary.METHODS)


@pytest.mark.parametrize(
    "name", ["numpy", "tolist", "item", "data_ptr", "storage", "set_", "apply_", "cuda", "new_empty"]
)
def test_methods_that_reach_beyond_the_tensor_are_not_in_it(name: str) -> None:
    assert name not in vocabulary.METHODS


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
        ("call_method", "reshape", (), {}, "expected the tensor"),
        ("call_method", "split", ("a b",), {}, "expected the tensor"),
    ],
)
def test_calls_outside_of_it(op: str, target: Any, args: Any, kwargs: dict[str, Any], reason: str) -> None:
    assert reason in (vocabulary.refusal(op, target, args, kwargs) or "")
