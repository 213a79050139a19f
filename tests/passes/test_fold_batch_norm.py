"""`fold_batch_norm` puts a norm with running statistics into the layer before it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.graph.shapes import propagate_shapes
from fxquant.passes.canonicalize import canonicalize
from fxquant.passes.fold_batch_norm import fold_batch_norm
from tests.support.check_pass import assert_close, graph_of


def model_of(layer: nn.Module, norm: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in norm.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return nn.Sequential(layer, norm).eval()


def folded(model: nn.Module, x: Tensor, known: bool = True) -> bool:
    gm = canonicalize(graph_of(model)).graph_module
    if known:
        propagate_shapes(gm, (x,))
    result = fold_batch_norm(gm)
    assert_close(model, result.graph_module, (x,), 1e-6)
    left = any(n.target is F.batch_norm for n in result.graph_module.graph.nodes)
    assert result.modified is not left
    return not left


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), (2, 3, 5, 5)),
        (nn.Conv2d(4, 4, 3, groups=2, bias=False), nn.BatchNorm2d(4), (2, 4, 5, 5)),
        (nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4, affine=False), (2, 3, 5)),
        (nn.ConvTranspose2d(3, 4, 2, 2), nn.BatchNorm2d(4), (2, 3, 5, 5)),
        (nn.Linear(3, 4), nn.BatchNorm1d(4), (2, 3)),
    ],
)
def test_folds(layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    assert folded(model_of(layer, norm), torch.randn(shape))


def test_stays_where_it_would_not_be_the_same() -> None:
    x = torch.randn(4, 4)
    statistics: Any = nn.BatchNorm1d(4, track_running_stats=False)
    assert not folded(model_of(nn.Linear(4, 4), statistics), x), "of the batch"
    assert not folded(model_of(nn.Linear(4, 4), nn.BatchNorm1d(4)), x, known=False), "the rank is unknown"
    tokens = model_of(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert not folded(tokens, torch.randn(2, 4, 3)[:, :4]), "channels of a norm of tokens are axis 1"
    grouped = model_of(nn.ConvTranspose2d(4, 4, 2, 2, groups=2), nn.BatchNorm2d(4))
    assert not folded(grouped, torch.randn(2, 4, 3, 3))

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model_of(nn.Linear(4, 4), nn.BatchNorm1d(4))

        def forward(self, x: Tensor) -> Tensor:
            y = self.parts[0](x)  # type: ignore[index]
            z: Tensor = self.parts[1](y) + y  # type: ignore[index]
            return z

    assert not folded(Twice().eval(), x), "something else reads the layer"


def test_a_prepared_model_holds_no_norm() -> None:
    model = model_of(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    prepared = fxquant.prepare(model, None, torch.randn(1, 3, 5, 5))
    assert not any(n.target is F.batch_norm for n in prepared.graph.nodes)
