"""`RotateHeads` turns queries and keys, and values, within each head."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.models import VisionTransformer

import fxquant
from fxquant.errors import UnsupportedGraphError
from fxquant.graph.attention_heads import head_pairs
from fxquant.passes.fold_constants import fold_constants
from fxquant.passes.rotate_heads import RotateHeads
from tests.support.check_pass import through
from tests.support.folding import folded, images, small, stirred


def pairs(model: nn.Module, x: Tensor) -> list[str]:
    """Return what of each product can be turned: "qk" or "v"."""
    gm: fx.GraphModule = through(fxquant.trace(model, x), fold_constants)
    return ["v" if pair.columns else "qk" for pair in head_pairs(gm.graph)]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("vit_small_patch14_reg4_dinov2", {}, ["qk", "v"]),
        ("vit_small_patch16_224", {"qk_norm": True}, ["v"]),
        ("eva02_tiny_patch14_224", {}, ["v"]),  # queries and keys are turned by their position
        ("swin_tiny_patch4_window7_224", {}, ["qk", "v"] * 2),
    ],
)
def test_families_compute_the_same(name: str, options: dict[str, object], expected: list[str]) -> None:
    model = small(name, **options)
    assert pairs(model, images()) == expected
    folded(model, images(), [RotateHeads(seed=3)])


def test_heads_in_the_batch() -> None:
    model = stirred(VisionTransformer(8, 4, 1, 2, 16, 16, num_classes=3))
    assert pairs(model, images()) == ["qk", "v"]
    folded(model, images(), [RotateHeads()])


class Attention(nn.Module):
    """Two heads of four channels; `shared`: values are the keys."""

    def __init__(self, shared: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(8, 8) for _ in range(4))
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).reshape(2, 5, 2, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, k if self.shared else v)
        return self.proj(y.transpose(1, 2).reshape(2, 5, 8))  # type: ignore[no-any-return]


def test_rows_and_columns_of_each_head_are_turned_alike() -> None:
    x = torch.randn(2, 5, 8)
    gm = folded(stirred(Attention()), x, [RotateHeads()])
    assert all(n.op != "get_attr" or "_folded" in str(n.target) or "proj.bias" in str(n.target) for n in gm.graph.nodes)


def test_what_two_operands_read_stays() -> None:
    x = torch.randn(2, 5, 8)
    assert pairs(stirred(Attention(shared=True)), x) == []
    with pytest.raises(UnsupportedGraphError, match="rotate_heads expected linear layers right before and behind"):
        folded(Attention(shared=True).eval(), x, [RotateHeads()])


def test_a_width_without_a_hadamard_matrix_is_refused() -> None:
    with pytest.raises(UnsupportedGraphError, match=r"knows none for width 6 of .* of blocks\.0\.attn"):
        folded(small("vit_small_patch16_224", num_heads=4), images(), [RotateHeads()])
