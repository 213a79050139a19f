"""`center_residual` takes the mean out of the residual stream."""

from __future__ import annotations

import pytest
import torch.nn.functional as F

from fxquant.errors import UnsupportedGraphError
from fxquant.passes.center_residual import center_residual
from fxquant.passes.fold_layer_scale import fold_layer_scale
from fxquant.passes.fold_norm_affine import fold_norm_affine
from tests.support.folding import folded, images, small

PASSES = (fold_layer_scale, fold_norm_affine, center_residual)


def test_layer_norms_become_rms_norms_once() -> None:
    gm = folded(small("vit_small_patch14_reg4_dinov2"), images(), PASSES)
    norms = [n.target for n in gm.graph.nodes if n.target in (F.layer_norm, F.rms_norm)]
    assert norms == [F.rms_norm] * 3
    assert not center_residual(gm).modified


def test_norms_of_queries_and_keys_stay() -> None:
    gm = folded(small("vit_small_patch16_224", qk_norm=True), images(), PASSES)
    assert [n.target for n in gm.graph.nodes if "norm" in n.name and n.op == "call_function"].count(F.layer_norm) == 2


def test_a_scale_that_is_left_is_named() -> None:
    with pytest.raises(UnsupportedGraphError, match=r"'layer_norm' of blocks\.0\.norm1 has a scale or shift"):
        folded(small("vit_small_patch16_224"), images(), [center_residual])
