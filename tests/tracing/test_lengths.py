"""The length of a tensor is a size while a model is exported, and a number before and after."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from fxquant.errors import UnsupportedGraphError
from fxquant.tracing.capture import capture


class Tiled(nn.Module):
    """Has `len` of its batch rows of a query; a branch keeps it from symbolic tracing."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.fc = nn.Parameter(torch.randn(1, 4)), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 4:
            raise ValueError("expected four channels")
        return self.fc(x) + self.query.tile([len(x), len([1])])


class Fixed(Tiled):
    """Needs a number, so that its batch is fixed."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.ones(4)[range(len(x))[0]]


@pytest.mark.parametrize("batch", [1, 5])
def test_the_batch_is_free(batch: int) -> None:
    model = Tiled().eval()
    gm = capture(model, torch.randn(2, 4))
    x = torch.randn(batch, 4)
    assert torch.equal(gm(x), model(x))


def test_the_files_are_as_they_were() -> None:
    before = dict(vars(sys.modules[__name__]))
    capture(Tiled().eval(), torch.randn(2, 4))
    with pytest.raises(UnsupportedGraphError, match="one batch size only"):
        capture(Fixed().eval(), torch.randn(2, 4))
    assert vars(sys.modules[__name__]) == before
