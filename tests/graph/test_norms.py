"""Norms are known by what they compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.graph.norms import norm_of
from tests.graph.test_activation_functions import result


def _rms(self: Any, x: Tensor) -> Tensor:
    y = x.float()
    return self.w * (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)).type_as(x)


def _layer(self: Any, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-6) * self.w + self.w


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: F.layer_norm(x, (4,)),
        lambda self, x: F.rms_norm(x, (4,), self.w[0]).reshape(2, 8),
        lambda self, x: F.rms_norm(x, (4,)) * 0.8,
        lambda self, x: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6),
        lambda self, x: x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.w,
        lambda self, x: (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True) + 1e-6),
        _rms,
        _layer,
    ],
)
def test_what_is_normalised(function: Any) -> None:
    found = norm_of(result(function))
    assert found is not None
    assert found.op == "placeholder"


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: F.layer_norm(x, (4,)) + x,
        lambda self, x: F.layer_norm(x, (4,)) * x,
        lambda self, x: x / x.exp().sum(-1, keepdim=True),
        lambda self, x: x * torch.rsqrt((x @ self.w).pow(2).mean(-1, keepdim=True)),
        lambda self, x: x * torch.sqrt(self.w.pow(2).mean()),
        lambda self, x: x * 0.5,
    ],
)
def test_what_is_no_norm(function: Any) -> None:
    assert norm_of(result(function)) is None
