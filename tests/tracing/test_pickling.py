"""Graphs at every stage are copied, pickled and saved by torch like any other module."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

import fxquant
from fxquant import UnsupportedGraphError
from tests.support.models import images, small_swin, small_vit

MINMAX = fxquant.recipe("minmax")


def distilled_deit() -> nn.Module:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    model: nn.Module = timm.create_model("deit_tiny_distilled_patch16_224", **sizes)
    return model.eval()


class Token(nn.Module):
    """A token that is folded to a buffer, and then expanded; with a branch, for torch.export to follow."""

    def __init__(self, branch: bool) -> None:
        super().__init__()
        self.fc, self.token, self.branch = nn.Linear(3 * 32, 4), nn.Parameter(torch.randn(1, 1, 96)), branch

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2).flatten(2)
        x = -x if self.branch and x.shape[1] > 3 else x
        return self.fc(torch.cat([(self.token * 2).expand(x.shape[0], -1, -1), x], 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "make", [small_vit, distilled_deit, small_swin, lambda: Token(False).eval(), lambda: Token(True).eval()]
)
def test_every_stage_gives_the_same_graph_and_values(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    traced = fxquant.trace(make(), images())
    prepared = fxquant.prepare(traced, MINMAX)
    done = fxquant.calibrate(copy.deepcopy(prepared), [images()], progress=False)
    x = images(3, seed=1)
    for gm in (traced, prepared, done, fxquant.convert(done, "fake"), fxquant.convert(done)):
        file = io.BytesIO()
        torch.save(gm, file)
        file.seek(0)
        pickled, loaded = pickle.loads(pickle.dumps(gm)), torch.load(file, weights_only=False)
        for other in (copy.deepcopy(gm), pickled, pickle.loads(pickle.dumps(pickled)), loaded):
            assert [(n.op, n.target) for n in other.graph.nodes] == [(n.op, n.target) for n in gm.graph.nodes]
            with torch.no_grad():
                assert torch.equal(other(x), copy.deepcopy(gm)(x))


def test_what_pickling_loses_is_refused() -> None:
    prepared = fxquant.prepare(small_vit(), MINMAX)
    fxquant.calibrate(prepared, [images()], progress=False)
    with pytest.raises(UnsupportedGraphError, match="a GraphModule that fxquant did not make"):
        fxquant.convert(pickle.loads(pickle.dumps(prepared)))
