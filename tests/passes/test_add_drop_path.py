"""`add_drop_path` drops branches of the residual stream, and nothing else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import fxquant
from fxquant.graph.stages import Stage
from fxquant.ops.train_modules import DropPath
from fxquant.passes.add_drop_path import AddDropPath
from fxquant.passes.canonicalize import canonicalize
from tests.support.check_pass import check_pass, check_unchanged, module_of, through

X = torch.randn(2, 5, 4)
W = torch.randn(4, 4)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(W)

    def forward(self, x: Tensor) -> Tensor:
        x = x + F.linear(F.layer_norm(x, (4,)), self.w)
        return F.linear(x, self.w) + x


def test_drops_both_branches_of_the_last_block() -> None:
    gm = check_pass(
        AddDropPath(0.4),
        through(nn.Sequential(Block(), Block()), canonicalize).eval(),
        (X,),
        after="""
            (input)
            layer_norm = F.layer_norm(input, (4,))
            linear = F.linear(layer_norm, 0.w)
            add = input + linear
            linear_1 = F.linear(add, 0.w)
            add_1 = linear_1 + add
            layer_norm_1 = F.layer_norm(add_1, (4,))
            linear_2 = F.linear(layer_norm_1, 1.w)
            drop_path_2 = train_modules.drop_path_2(linear_2)
            add_2 = add_1 + drop_path_2
            linear_3 = F.linear(add_2, 1.w)
            drop_path_3 = train_modules.drop_path_3(linear_3)
            add_3 = drop_path_3 + add_2
            return add_3
        """,
        stage=Stage.PREPARED,
    )
    assert [m.drop_prob for m in gm.modules() if isinstance(m, DropPath)] == [0.4, 0.4]


class Alone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)  # type: ignore[no-any-return]


def test_a_module_with_one_branch_is_no_block() -> None:
    gm = through(nn.Sequential(Alone(), Alone()), canonicalize).eval()
    check_unchanged(AddDropPath(0.4), gm, (torch.randn(1, 3, 4, 4),), Stage.PREPARED)


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: x + self.w[0],  # a constant, as an embedding of positions
        lambda self, x: F.linear(x, self.w) + F.linear(x, self.w),  # no skip beside a branch
        lambda self, x: F.softmax(torch.matmul(x, x.transpose(1, 2)) + self.w[:1, :1], -1),  # a bias of scores
        lambda self, x: x + x.relu(),
    ],
)
def test_other_sums_stay(function: object) -> None:
    check_unchanged(AddDropPath(0.4), through(module_of(function, w=W), canonicalize).eval(), (X,), Stage.PREPARED)


def test_rate_zero_adds_nothing() -> None:
    model = VisionTransformer(img_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2, num_classes=3).eval()
    check_unchanged(AddDropPath(0.0), fxquant.trace(model), (torch.randn(1, 3, 16, 16),), Stage.PREPARED)


def test_a_vit_has_the_rates_of_timm() -> None:
    model = VisionTransformer(img_size=16, patch_size=8, embed_dim=8, depth=3, num_heads=2, num_classes=3).eval()
    gm = AddDropPath(0.3)(fxquant.trace(model)).graph_module
    rates = [float(m.drop_prob) for m in gm.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.15, 0.15, 0.3, 0.3])
    images = torch.randn(64, 3, 16, 16)
    assert torch.equal(gm.eval()(images), model(images))
    assert not torch.equal(gm.train()(images), model(images))


def test_a_swin_drops_in_every_block() -> None:
    from timm.models.swin_transformer import SwinTransformer

    model = SwinTransformer(
        img_size=16, patch_size=2, embed_dim=8, depths=(2, 2), num_heads=(2, 2), window_size=4, num_classes=3
    )
    gm = AddDropPath(0.7)(fxquant.trace(model.eval())).graph_module
    assert sum(isinstance(m, DropPath) for m in gm.modules()) == 6  # two for each of four blocks but the first
