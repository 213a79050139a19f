"""What a graph calls while it is trained: dropped paths are timm's, draw for draw."""

from __future__ import annotations

import pytest
import timm.layers
import torch

from fxquant.ops.train_modules import DropPath


@pytest.mark.parametrize("shape", [(6,), (6, 5), (6, 5, 4)])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_drops_what_timm_drops(shape: tuple[int, ...], rate: float) -> None:
    x = torch.randn(shape)
    for training in (True, False):
        results = []
        for module in (DropPath(rate), timm.layers.DropPath(rate)):
            torch.manual_seed(3)
            results.append(module.train(training)(x))
        assert torch.equal(*results)


def test_whole_images_are_dropped_and_the_rest_grows() -> None:
    torch.manual_seed(0)
    y = DropPath(0.5).train()(torch.ones(64, 3, 2))
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert (y == y[:, :1, :1]).all()
