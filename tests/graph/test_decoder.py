"""The decoder of a detector is told by its queries."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant


class Detector(nn.Module):
    """Tokens, `queries` learned rows that attend to them, and a box per query."""

    def __init__(self, queries: int, sampled: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.queries = nn.Parameter(torch.randn(1, queries, 8))
        self.embed, self.value, self.mlp, self.box = (nn.Linear(8, 8) for _ in range(4))
        self.sampled = sampled

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x)
        rows = self.select(tokens) if self.sampled else self.attend(tokens)
        y: Tensor = self.box(self.mlp(rows).relu())
        return y

    def attend(self, tokens: Tensor) -> Tensor:
        queries = self.queries.expand(tokens.shape[0], -1, -1)
        return F.scaled_dot_product_attention(queries, tokens, self.value(tokens))

    def select(self, tokens: Tensor) -> Tensor:
        values = self.value(tokens)
        best = values.mean(-1).topk(3).indices
        rows = tokens.gather(1, best[..., None].expand(-1, -1, 8))
        places = torch.tanh(rows[:, None, :, :2])
        maps = values.transpose(1, 2).unflatten(2, (4, 4))
        return F.grid_sample(maps, places, align_corners=False).flatten(2).transpose(1, 2)


def kept_float(model: nn.Module, **options: Any) -> list[str]:
    x = torch.randn(2, 16, 8)
    gm = fxquant.quantize(model.eval(), [x], recipe="minmax", **options)
    assert (gm(x) - model(x)).norm() < 0.1 * model(x).norm()
    return [r.name for r in fxquant.report(gm) if not r.int8 and "decoder" in str(r.reason)]


@pytest.mark.parametrize("sampled", [False, True])
def test_what_follows_the_queries_stays_float(sampled: bool) -> None:
    assert kept_float(Detector(5, sampled)) == ["mlp", "box"]


def test_in_an_exported_graph() -> None:
    class Branching(Detector):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.shape[1] > 1 else x * 2)

    assert kept_float(Branching(5, sampled=True)) == ["mlp", "box"]


def test_unless_asked() -> None:
    assert kept_float(Detector(5), decoder=True) == []


def test_an_override_brings_a_layer_back() -> None:
    model, x = Detector(5).eval(), torch.randn(2, 16, 8)
    config = fxquant.recipe("minmax")
    prepared = fxquant.prepare(model, config.set_module_name("mlp", config.layer), x)
    prepared(x)
    assert [r.name for r in fxquant.report(fxquant.convert(prepared)) if r.int8] == ["embed", "value", "mlp"]


def test_one_learned_row_is_no_decoder() -> None:
    assert kept_float(Detector(1)) == []
