"""`RotateResidual` turns the residual stream."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from fxquant.errors import UnsupportedGraphError
from fxquant.passes.center_residual import center_residual
from fxquant.passes.fold_layer_scale import fold_layer_scale
from fxquant.passes.fold_norm_affine import fold_norm_affine
from fxquant.passes.rotate_residual import RotateResidual
from tests.support.folding import folded, images, small, stirred

PASSES = (fold_layer_scale, fold_norm_affine, RotateResidual(seed=3))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_small_patch14_reg4_dinov2", {"init_values": 0.3}),
        ("vit_small_patch16_224", {"class_token": False, "global_pool": "avg", "qk_norm": True}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("eva02_tiny_patch14_224", {}),
        ("cait_xxs24_224", {}),
    ],
)
def test_families_compute_the_same(name: str, options: dict[str, object]) -> None:
    model = small(name, **options)
    gm = folded(model, images(), PASSES)
    before, after = (dict(m.named_buffers()) | dict(m.named_parameters()) for m in (model, gm))
    assert not torch.allclose(before["patch_embed.proj.weight"], after["patch_embed.proj.weight_folded"], atol=0.01)


def test_torchvision_and_a_stream_without_its_mean() -> None:
    model = stirred(VisionTransformer(8, 4, 1, 2, 12, 16, num_classes=3))
    gm = folded(model, images(), [*PASSES[:2], center_residual, PASSES[2]])
    assert all(n.target is not F.layer_norm for n in gm.graph.nodes)


def test_what_is_not_exact_is_refused_by_name() -> None:
    with pytest.raises(
        UnsupportedGraphError, match=r"rotate is not exact .* 'layer_norm' of patch_embed\.norm writes into it"
    ):
        folded(small("swin_tiny_patch4_window7_224"), images(), PASSES)
    with pytest.raises(UnsupportedGraphError, match="knows none of width 30"):
        folded(small("vit_small_patch16_224", embed_dim=30), images(), PASSES)


class Merging(nn.Module):
    """A block, and patches that are merged behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.layer = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4)
        self.merged, self.head = nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.layer(self.norm(x))
        return self.head(self.merged(x.reshape(2, 2, 8)))  # type: ignore[no-any-return]


class Gated(Merging):
    """A block whose stream is multiplied by what is computed."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.layer(self.norm(x)).sigmoid() * x
        return self.layer(self.norm(x))  # type: ignore[no-any-return]


class Headless(Merging):
    """A block whose stream is the result."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.layer(self.norm(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Merging(), "'layer_norm' of merged reads its channels in other places, as where patches are merged"),
        (Gated(), "'mul' of the model itself"),
        (Headless(), "'output' of the model itself reads it"),
        (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)), "expected a residual stream"),
    ],
)
def test_small_streams_are_refused_by_name(model: nn.Module, reason: str) -> None:
    with pytest.raises(UnsupportedGraphError, match=reason):
        folded(stirred(model), torch.randn(2, 4, 3), PASSES)


def test_a_layer_that_reads_the_stream_without_a_norm_is_turned_too() -> None:
    class Bare(Merging):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.layer(x + self.layer(self.norm(x)))  # type: ignore[no-any-return]

    folded(stirred(Bare()), torch.randn(2, 4, 3), PASSES)
    with pytest.raises(UnsupportedGraphError, match="'linear' of layer reads the mean of the residual stream"):
        folded(stirred(Bare()), torch.randn(2, 4, 3), [*PASSES[:2], center_residual])
