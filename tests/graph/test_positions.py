"""Products of phases and of positions are told from those of images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.graph.positions import works_on_positions
from tests.graph.test_dataflow import products

PHASES, POSITIONS = "computes phases of sine and cosine", "depends on positions alone"


def _fourier(self: Any, x: Tensor) -> Tensor:
    phases = 6.28 * ((2 * x - 1) @ self.w)
    return torch.cat([phases.sin(), phases.cos()], -1)


def _table(self: Any, x: Tensor) -> Tensor:
    phases = torch.outer(x[0], self.w[0]) @ self.w
    both = torch.cat([phases, phases], -1)[..., :4]
    return x * both.cos() + x.flip(-1) * both.sin()


def _ranges(self: Any, x: Tensor) -> Tensor:
    return x + F.linear(torch.arange(x.shape[0]).type_as(x)[:, None] + torch.zeros_like(x), self.w)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (_fourier, PHASES),
        (_table, PHASES),
        (lambda self, x: torch.polar(self.w, x @ self.w), PHASES),
        (_ranges, POSITIONS),
        (lambda self, x: F.linear(self.w.expand(x.shape[0], -1), self.w), None),
        (lambda self, x: F.linear(x.sin(), self.w), None),
        (lambda self, x: (x @ self.w) * x.cos(), None),
        (lambda self, x: F.gelu(x @ self.w).sin(), None),
        (lambda self, x: x @ self.w + torch.arange(4), None),
    ],
)
def test_why_a_product_stays_float(function: Any, reason: str | None) -> None:
    assert works_on_positions(products(function)[0]) == reason
