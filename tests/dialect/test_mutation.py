"""Which operators change a tensor in place."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx

from fxquant.dialect.mutation import mutates

GRAPH = fx.Graph()
X = GRAPH.placeholder("x")


@pytest.mark.parametrize("target", [operator.iadd, operator.ior, operator.setitem, torch.relu_, F.elu_])
def test_those_that_do(target: Any) -> None:
    assert mutates(GRAPH.call_function(target, (X, X)))


@pytest.mark.parametrize("target", [operator.and_, operator.or_, operator.not_, operator.is_, operator.add, torch.relu])
def test_those_that_do_not(target: Any) -> None:
    assert not mutates(GRAPH.call_function(target, (X, X)))
