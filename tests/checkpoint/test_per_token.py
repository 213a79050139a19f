"""Operands with a scale per token come back from a file, at every stage and in what they compute."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import fx

import fxquant
from fxquant import LayerSpec, PerToken, QuantConfig, TensorSpec
from fxquant.errors import CheckpointError
from fxquant.ops import dequantize_tokens, layer_norm_quantize_tokens
from tests.support.checkpoints import assert_same, at_stage, images, round_trip

LAYER = LayerSpec(activation=TensorSpec(granularity=PerToken()))


def per_token_at(stage: str) -> fx.GraphModule:
    config = QuantConfig(LAYER).set_object_type("conv2d", LayerSpec())
    prepared = fxquant.prepare(at_stage("vit", "float"), config)
    fxquant.calibrate(prepared, [images("vit")], progress=False)
    return prepared if stage == "calibrated" else fxquant.convert(prepared, "fake" if stage == "fake" else "int8")


@pytest.mark.parametrize("stage", ["calibrated", "fake", "int8"])
def test_every_stage(stage: str, tmp_path: Path) -> None:
    gm = per_token_at(stage)
    loaded = round_trip(gm, tmp_path)
    assert_same(gm, loaded, [images("vit", 1)])
    assert str(fxquant.report(loaded)) == str(fxquant.report(gm))


def test_a_file_whose_product_lacks_a_zero_point_is_refused(tmp_path: Path) -> None:
    gm = per_token_at("int8")
    node = next(n for n in gm.graph.nodes if len(n.args) == 10)  # int8_linear with scales of rows
    node.args = node.args[:9]
    with pytest.raises(CheckpointError, match="expected scale and zero point of each row"):
        round_trip(gm, tmp_path)


def test_a_file_that_reads_the_scales_of_other_codes_is_refused(tmp_path: Path) -> None:
    gm = per_token_at("fake")
    one, other, *_ = (n for n in gm.graph.nodes if n.target is dequantize_tokens)
    other.args = (other.args[0], one.args[1], other.args[2])
    with pytest.raises(CheckpointError, match="does not read all that one quantize_tokens gives"):
        round_trip(gm, tmp_path)


def test_nonsense_in_a_file_is_refused(tmp_path: Path) -> None:
    gm = per_token_at("int8")
    node = next(n for n in gm.graph.nodes if n.target is layer_norm_quantize_tokens)
    node.args = (*node.args[:4], None, *node.args[5:])
    with pytest.raises(CheckpointError, match="symmetric: expected True or False"):
        round_trip(gm, tmp_path)
