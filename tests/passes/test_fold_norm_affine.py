"""`fold_norm_affine` leaves norms that linear layers alone read without scale and shift."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.errors import ConfigError
from fxquant.graph.shapes import propagate_shapes
from fxquant.passes.canonicalize import canonicalize
from fxquant.passes.fold_norm_affine import fold_norm_affine
from tests.support.check_pass import check_pass, check_unchanged, graph_of, module_of
from tests.support.folding import folded, images, small, stirred

X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
TENSORS = {name: torch.randn(4) for name in ("gamma", "beta", "b")} | {"w": torch.randn(4, 4), "v": torch.randn(4, 4)}


def graph(forward: Any, x: Tensor = X) -> nn.Module:
    gm = canonicalize(graph_of(module_of(forward, **TENSORS))).graph_module
    propagate_shapes(gm, (x,))
    return gm


def test_all_readers_take_scale_and_shift() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        y = F.layer_norm(x, (4,), self.gamma, self.beta, 1e-6)
        z = F.rms_norm(x, (4,), self.gamma, 1e-6)
        return F.linear(y[:, 0], self.w, self.b), F.linear(y.mean(1), self.v), F.linear(z, self.w)

    check_pass(
        fold_norm_affine,
        graph(forward),
        (X,),
        after="""
        (x)
        layer_norm = F.layer_norm(x, (4,), None, None, 1e-06)
        rms_norm = F.rms_norm(x, (4,), None, 1e-06)
        getitem = layer_norm[:, 0]
        linear = F.linear(getitem, w_folded, b_folded)
        mean = layer_norm.mean(1)
        linear_1 = F.linear(mean, v_folded, bias_folded)
        linear_2 = F.linear(rms_norm, w_folded_1)
        return (linear, linear_1, linear_2)
        """,
        tolerance=1e-6,
    )


def test_stays_where_a_reader_cannot_take_them() -> None:
    def added(self: Any, x: Tensor) -> Tensor:
        y = F.layer_norm(x, (4,), self.gamma, self.beta)
        return F.linear(y, self.w) + y

    def mixed(self: Any, x: Tensor) -> Tensor:
        return F.linear(F.layer_norm(x, (4,), self.gamma, self.beta).reshape(2, 4, 3).transpose(1, 2), self.w)

    def padded(self: Any, x: Tensor) -> Tensor:
        return F.linear(F.pad(F.layer_norm(x, (4,), self.gamma, self.beta), (0, 0, 0, 1)), self.w)

    def computed(self: Any, x: Tensor) -> Tensor:
        return F.linear(F.layer_norm(x, (4,), self.gamma, self.beta), x[0, :1] * self.w)

    for forward in (added, mixed, padded, computed):
        check_unchanged(fold_norm_affine, graph(forward), (X,))


def test_windows_are_moved_tokens_and_a_stem_norm_stays() -> None:
    gm = folded(small("swin_tiny_patch4_window7_224"), images(), [fold_norm_affine])
    left = [str(n.target) for n in gm.graph.nodes if n.op == "get_attr" and "norm" in str(n.target)]
    assert left == ["patch_embed.norm.weight", "patch_embed.norm.bias"]


def test_a_weight_that_two_norms_share_becomes_two() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.layer = nn.LayerNorm(8), nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.other(self.layer(self.one(x))))  # type: ignore[no-any-return]

    gm = folded(stirred(Tied()), torch.randn(2, 3, 8), [fold_norm_affine])
    assert sum(n.op == "get_attr" and "weight_folded" in str(n.target) for n in gm.graph.nodes) == 2


def test_shapes_have_to_be_known() -> None:
    model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)).eval()
    with pytest.raises(ConfigError, match="give example_inputs"):
        fxquant.prepare(fxquant.trace(model), fxquant.recipe("minmax", folds="affine"))
