"""Multiply-accumulates are counted wherever ATen computes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxquant.graph.multiply_accumulates import MacCounter

X = torch.randn(2, 6, 4)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(
    ("call", "macs"),
    [
        (lambda: F.linear(X, torch.randn(5, 4)), 2 * 6 * 5 * 4),
        (lambda: X @ X.mT, 2 * 6 * 6 * 4),
        (lambda: F.conv1d(X, torch.randn(3, 6, 2)), 2 * 3 * 3 * 6 * 2),
        (lambda: F.conv2d(X[None], torch.randn(4, 1, 3, 3), groups=2), 4 * 4 * 2 * 9),
        (lambda: torch.einsum("bnc,bmc->bnm", X, X), 2 * 6 * 6 * 4),
        (lambda: nn.MultiheadAttention(4, 2, batch_first=True).eval()(X, X, X), 2 * (4 * 6 * 4 * 4 + 2 * 6 * 6 * 4)),
        (lambda: X * X + X.softmax(-1), 0),
    ],
)
def test_counts(call: Callable[[], Any], macs: int, inference: bool) -> None:
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode(inference), torch.no_grad(), MacCounter() as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert counter.total == macs
