"""Small models whose weights are all there is to see in a test of folds, and what such a test checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.graph.rewrite import Pass
from fxquant.graph.stages import Stage
from fxquant.passes.fold_constants import fold_constants
from fxquant.spec import verify
from tests.support.check_pass import through

_SMALL = {"embed_dim": 24, "depth": 1, "num_heads": 3, "img_size": 8, "patch_size": 4, "num_classes": 5}
SWIN = {"embed_dim": 8, "depths": (1, 1), "num_heads": (2, 2), "img_size": 8, "patch_size": 2, "window_size": 4}


def stirred(model: nn.Module) -> nn.Module:
    """Return `model` with noise on all its parameters, so that no scale is 1 and no shift 0."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def small(name: str, **options: Any) -> nn.Module:
    """Return a ViT of timm's family `name` with one block of 24 channels on images ``(B, 3, 8, 8)``, or a Swin."""
    torch.manual_seed(0)
    return stirred(timm.create_model(name, **({"num_classes": 5} | SWIN if "swin" in name else _SMALL) | options))


def images() -> Tensor:
    """Return two images ``(2, 3, 8, 8)``."""
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def folded(model: nn.Module, x: Tensor, passes: Sequence[Pass]) -> fx.GraphModule:
    """Return the graph of `model` after `passes`, having checked that it computes the same and that `model` did not change."""
    before = {name: t.clone() for name, t in model.state_dict().items()}
    gm = through(fxquant.trace(model, x), fold_constants, *passes)
    verify(gm, Stage.FLOAT)
    with torch.no_grad():
        expected, found = model(x), gm(x)
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    return gm
