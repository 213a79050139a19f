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
from tests.support.models import images, small_swin, small_vit
from tests.support.tiers import keep_quick

CONFIG = fxquant.DataConfig((3, 32, 32), (0.5,) * 3, (0.25,) * 3)
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


def token() -> nn.Module:
    return Token(False).eval()


def token_of_export() -> nn.Module:
    return Token(True).eval()


@pytest.mark.parametrize(
    "make",
    keep_quick([small_vit, distilled_deit, small_swin, token, token_of_export], small_vit, token, token_of_export),
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


def test_copies_and_pickles_know_what_the_graph_knows() -> None:
    prepared = fxquant.prepare(small_vit(), MINMAX)
    prepared.data_config = CONFIG  # type: ignore[assignment]
    fxquant.calibrate(prepared, [images()], progress=False)
    wanted = fxquant.convert(prepared)
    again = fxquant.convert(pickle.loads(pickle.dumps(prepared)))
    for gm in (again, copy.copy(wanted), copy.deepcopy(wanted), pickle.loads(pickle.dumps(wanted))):
        assert str(fxquant.report(gm)) == str(fxquant.report(wanted))
        assert gm.data_config == CONFIG
        assert torch.equal(gm(images()), wanted(images()))
    twin = copy.copy(prepared)
    twin.data_config = None  # type: ignore[assignment]
    assert prepared.data_config == CONFIG


def test_what_cannot_be_stored_is_not_pickled() -> None:
    gm = fxquant.trace(small_vit())
    gm.head_of_another = nn.Parameter(torch.zeros(1, device="meta"))
    with pytest.raises(fxquant.CheckpointError, match="on one device"):
        pickle.dumps(gm)
