"""Calls of legal operators that write to an argument or trust a number, and attributes that may not be read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx

from fxquant.dialect.legal_calls import attribute_refusal, call_refusal

GRAPH = fx.Graph()
X = GRAPH.placeholder("x")
ATEN = torch.ops.aten


@pytest.mark.parametrize(
    ("target", "args", "kwargs", "reason"),
    [
        (torch.add, (X, X), {"out": X}, "out= writes"),
        (F.normalize, (X, 2.0, 1, 1e-12, X), {}, "out= writes"),
        (torch.norm, (X, 2, 0, False, X), {}, "out= writes"),
        (F.relu, (X, True), {}, "inplace= writes"),
        (F.relu, (X,), {"inplace": 1}, "inplace= writes"),
        (F.relu, (X,), {"inplace": X}, "inplace= writes"),
        (F.dropout, (X, 0.0, False, True), {}, "inplace= writes"),
        (F.embedding, (X, X, None, 1.0), {}, "max_norm= writes"),
        (torch.zeros, ((1,),), {"pin_memory": True}, "pin_memory= pins"),
        (max, ((1, 2),), {"key": X}, "key= calls"),
        (F.batch_norm, (X, X, X, None, None, True), {}, "running statistics"),
        (torch.batch_norm, (X, None, None, X, X, True, 0.1, 1e-5, False), {}, "running statistics"),
        (ATEN.batch_norm.default, (X, None, None, X, X, X, 0.1, 1e-5, False), {}, "running statistics"),
        (F.instance_norm, (X,), {"running_mean": X, "running_var": X, "use_input_stats": True}, "running statistics"),
        (ATEN.sum.default, (X,), {"dtype": 1000}, "dtype= expects a dtype"),
        (ATEN.sum, (X,), {"dtype": 1000}, "dtype= expects a dtype"),
        (ATEN.sum, (X,), {"dtype": X}, "dtype= expects a dtype"),
        (ATEN.softmax.int, (X, 0, -1), {}, "dtype= expects a dtype"),
        (ATEN.to, (X, 1000), {}, "dtype= expects a dtype"),
        (ATEN.clone.default, (X,), {"memory_format": 77}, "memory_format= expects a dtype"),
    ],
)
def test_calls_that_are_not_legal(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], reason: str) -> None:
    assert reason in str(call_refusal(target, args, kwargs))


@pytest.mark.parametrize(
    ("target", "args", "kwargs"),
    [
        (F.normalize, (X,), {"out": None}),
        (F.relu, (X, False), {}),
        (ATEN.sum.default, (X,), {"dtype": torch.float64}),
        (ATEN.sum.dim_IntList, (X, [1]), {"dtype": None}),
        (ATEN.to, (X, torch.float64), {}),
        (ATEN.view, (X, [2, 3]), {}),
        (ATEN.softmax.int, (X, 0, GRAPH.call_function(getattr, (X, "dtype"))), {}),
        (F.embedding, (X, X, 3), {}),
        (F.batch_norm, (X, X, X, None, None, False), {}),
        (F.batch_norm, (X, None, None, X, X, True), {}),  # standardised weights: there are no statistics to write
        (torch.batch_norm, (X, X, X, X, X, False, 0.1, 1e-5, False), {}),
        (torch.zeros, ((1,),), {"pin_memory": False}),
        ("softmax", (X, -1), {}),
    ],
)
def test_calls_that_do_not(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert call_refusal(target, args, kwargs) is None


SORTED = GRAPH.call_function(torch.sort, (X,))
LARGEST = GRAPH.call_method("max", (X, 1))
SVD = GRAPH.call_function(torch.linalg.svd, (X,))
OVERLOAD = GRAPH.call_function(ATEN.sort.default, (X,))
DTYPE = GRAPH.call_function(getattr, (X, "dtype"))
DEVICE = GRAPH.call_function(getattr, (X, "device"))


@pytest.mark.parametrize(
    ("node", "name"),
    [(X, "shape"), (X, "real"), (X, "mH"), (SORTED, "values"), (LARGEST, "indices"), (SVD, "Vh"), (DTYPE, "itemsize")],
)
def test_attributes_that_are_read(node: fx.Node, name: str) -> None:
    assert attribute_refusal((node, name), {}) is None


@pytest.mark.parametrize(
    ("node", "name"),
    [
        *((X, "values"), (X, "data"), (X, "grad"), (X, "grad_fn"), (X, "__class__"), (X, "storage"), (X, "is_leaf")),
        *((SORTED, "Vh"), (SORTED, "__class__"), (SORTED, "count"), (OVERLOAD, "values"), (DTYPE, "__class__")),
        *((DEVICE, "is_complex"), (X, "type"), (X, "sort"), (X, ""), ("shape", "shape")),
    ],
)
def test_attributes_that_are_not(node: Any, name: str) -> None:
    assert "getattr expects" in str(attribute_refusal((node, name), {}))
