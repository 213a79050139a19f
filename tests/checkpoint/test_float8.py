"""Float8 codes come back from a file, at every stage and in what they compute; files that misuse them are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import fx

import fxquant
from fxquant.errors import CheckpointError
from fxquant.graph.attributes import tensor_of
from fxquant.ops import dequantize_float8, extract_patches, float8_linear
from tests.support.checkpoints import assert_same, at_stage, images, round_trip


def float8_at(stage: str, recipe: str = "minmax") -> fx.GraphModule:
    prepared = fxquant.prepare(at_stage("vit", "float"), fxquant.recipe(recipe, codes="e4m3", patch_embed=True))
    fxquant.calibrate(prepared, [images("vit")], progress=False)
    return prepared if stage == "calibrated" else fxquant.convert(prepared, "fake" if stage == "fake" else "int8")


@pytest.mark.parametrize("stage", ["calibrated", "fake", "int8"])
@pytest.mark.parametrize("recipe", ["minmax", "dynamic"])
def test_every_stage(stage: str, recipe: str, tmp_path: Path) -> None:
    gm = float8_at(stage, recipe)
    loaded = round_trip(gm, tmp_path)
    assert_same(gm, loaded, [images("vit", 1)])
    assert str(fxquant.report(loaded)) == str(fxquant.report(gm))


def test_a_file_that_reads_codes_with_another_scale_is_refused(tmp_path: Path) -> None:
    gm = float8_at("fake")
    one, other, *_ = (n for n in gm.graph.nodes if n.target is dequantize_float8 and n.args[0].op != "get_attr")
    other.args = (other.args[0], one.args[1])
    with pytest.raises(CheckpointError, match="does not read codes with the scale that they were made with"):
        round_trip(gm, tmp_path)


def test_a_file_whose_weight_is_no_number_is_refused(tmp_path: Path) -> None:
    gm = float8_at("int8")
    node = next(n for n in gm.graph.nodes if n.target is float8_linear)
    tensor_of(node.args[1]).view(torch.uint8)[0, 0] = 0x7F
    with pytest.raises(CheckpointError, match="weight: expected finite values"):
        round_trip(gm, tmp_path)


def test_a_file_whose_patches_have_a_zero_point_is_refused(tmp_path: Path) -> None:
    gm = float8_at("int8")
    node = next(n for n in gm.graph.nodes if n.target is extract_patches)
    node.args = (*node.args[:5], 255)
    with pytest.raises(CheckpointError, match="expected e4m3 codes without a zero point"):
        round_trip(gm, tmp_path)
