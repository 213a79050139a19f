"""Activation functions are known by what they compute, however they are spelled."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.graph.activation_functions import activation_of, is_gated
from fxquant.numerics.arithmetic import GELU_MINIMUM
from fxquant.passes.canonicalize import canonicalize
from tests.support.check_pass import module_of, through

GELU, TANH, SILU = -0.169971, -0.170041, -0.278465
QUICK = SILU / 1.702


def result(function: Any) -> fx.Node:
    """Return the node that computes the result of `function`."""
    gm = through(module_of(function, w=torch.ones(4, 4), slope=torch.tensor(1.702)), canonicalize)
    (output,) = [n for n in gm.graph.nodes if n.op == "output"]
    return output.args[0]  # type: ignore[no-any-return]


def _new(self: Any, x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


def _moved(self: Any, x: Tensor) -> Tensor:
    return F.silu(x.float(), inplace=True).reshape(2, 8).transpose(0, 1)


@pytest.mark.parametrize(
    ("function", "minimum"),
    [
        (lambda self, x: F.gelu(x), GELU),
        (lambda self, x: F.gelu(x, approximate="tanh"), TANH),
        (lambda self, x: F.silu(x), SILU),
        (lambda self, x: x * torch.sigmoid(1.702 * x), QUICK),
        (lambda self, x: (self.slope * x).sigmoid() * x, QUICK),
        (lambda self, x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))), GELU),
        (_new, TANH),
        (lambda self, x: 0.5 * x * (1 + torch.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x))), TANH),
        (lambda self, x: x / (1 + torch.exp(-x)), SILU),
        (lambda self, x: x * torch.tanh(F.softplus(x)), -0.308843),
        (lambda self, x: F.hardswish(x), -0.375),
        (lambda self, x: F.gelu(x) * 2, 2 * GELU),
        (lambda self, x: F.silu(x @ self.w + x), SILU),
        (_moved, SILU),
    ],
)
def test_the_least_value_of_an_activation_function(function: Any, minimum: float) -> None:
    found = activation_of(result(function))
    assert found is not None
    assert found.minimum == pytest.approx(minimum, rel=1e-4)


def test_the_least_value_of_gelu_is_the_published_one() -> None:
    found = activation_of(result(lambda self, x: F.gelu(x)))
    assert found is not None
    assert found.minimum == GELU_MINIMUM


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: x.relu(),
        lambda self, x: x.sigmoid(),
        lambda self, x: F.elu(x),
        lambda self, x: x * 2,
        lambda self, x: x * torch.sigmoid(x @ self.w),
        lambda self, x: x.chunk(2)[0] * torch.sigmoid(x.chunk(2)[1]),
        lambda self, x: x + F.gelu(x),
        lambda self, x: F.gelu(x) * self.w,
        lambda self, x: -F.gelu(x),
        lambda self, x: x * x.sin(),
    ],
)
def test_other_functions_are_none(function: Any) -> None:
    assert activation_of(result(function)) is None


@pytest.mark.parametrize(
    ("function", "gated"),
    [
        (lambda self, x: F.silu(x @ self.w) * (x @ x), True),
        (lambda self, x: (x @ x) * F.gelu(x @ self.w), True),
        (lambda self, x: F.silu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1], True),
        (lambda self, x: (x @ self.w).relu() * x, True),
        (lambda self, x: ((x @ self.w) * 1.702).sigmoid() * (x @ self.w) * x, False),
        (lambda self, x: F.glu(x).reshape(4, 2), True),
        (lambda self, x: x * torch.sigmoid(1.702 * x), False),
        (lambda self, x: F.silu(x) * self.w, False),
        (lambda self, x: F.silu(x) * 2, False),
        (lambda self, x: (x @ self.w) * x, False),
        (lambda self, x: F.silu(x) + x, False),
    ],
)
def test_gated_products(function: Any, gated: bool) -> None:
    assert is_gated(result(function)) is gated
