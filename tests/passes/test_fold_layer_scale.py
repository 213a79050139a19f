"""`fold_layer_scale` puts a factor per channel into the linear layer before it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.passes.fold_layer_scale import fold_layer_scale
from tests.support.check_pass import check_pass, check_unchanged, module_of
from tests.support.folding import folded, images, small


def _linear(gamma: Tensor, **tensors: Tensor) -> dict[str, Tensor]:
    return {"w": torch.randn(4, 3), "b": torch.randn(4), "gamma": gamma, **tensors}


def test_either_side_of_the_product() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.gamma * F.linear(F.linear(x, self.w, self.b) * self.gamma, self.v)  # type: ignore[no-any-return]

    check_pass(
        fold_layer_scale,
        module_of(forward, **_linear(torch.randn(4), v=torch.randn(4, 4))),
        (torch.randn(2, 3),),
        after="""
        (x)
        linear = F.linear(x, w_folded, b_folded)
        linear_1 = F.linear(linear, v_folded)
        return linear_1
        """,
        tolerance=1e-6,
    )


def test_stays_where_anything_else_reads_the_layer_or_the_factor_is_no_channel() -> None:
    def read_twice(self: Any, x: Tensor) -> Tensor:
        y = F.linear(x, self.w, self.b)
        return y * self.gamma + y  # type: ignore[no-any-return]

    def forward(self: Any, x: Tensor) -> Tensor:
        return F.linear(x, self.w, self.b) * self.gamma  # type: ignore[no-any-return]

    check_unchanged(fold_layer_scale, module_of(read_twice, **_linear(torch.randn(4))), (torch.randn(2, 3),))
    for gamma in (torch.randn(2, 1), torch.randn(()), torch.randn(1)):
        check_unchanged(fold_layer_scale, module_of(forward, **_linear(gamma)), (torch.randn(2, 3),))


def test_a_model_with_layer_scale_has_none_left() -> None:
    model = small("vit_small_patch14_reg4_dinov2", init_values=0.3)
    gm = folded(model, images(), [fold_layer_scale])
    assert sum(".ls" in str(n.target) for n in gm.graph.nodes) == 0
