"""Powers of a fitted base come back from a file, at every stage, and forged ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import fx

import fxquant
from fxquant import AdaLogGELU, AdaLogSoftmax, LayerSpec, QuantConfig, ScaleSearch
from fxquant.checkpoint import typed
from fxquant.observers.operand_spec import OperandSpec
from fxquant.ops import fake_quantize_adalog, int8_matmul, quantize_adalog
from tests.support.checkpoints import assert_same, at_stage, images, round_trip

QUICK = ScaleSearch(steps=4, smallest=0.5, rounds=1, max_rows=16)


def vit_at(stage: str, published: bool = False) -> fx.GraphModule:
    layer = LayerSpec(softmax=AdaLogSoftmax(4, published), gelu=AdaLogGELU(4, published), search=QUICK)
    prepared = fxquant.prepare(at_stage("vit", "float"), QuantConfig(layer, attention=True))
    fxquant.calibrate(prepared, [images("vit")], progress=False)
    return prepared if stage == "calibrated" else fxquant.convert(prepared, "fake" if stage == "fake" else "int8")


@pytest.mark.parametrize("stage", ["calibrated", "fake", "int8"])
def test_every_stage(stage: str, tmp_path: Path) -> None:
    gm = vit_at(stage)
    loaded = round_trip(gm, tmp_path)
    assert_same(gm, loaded, [images("vit", 1)])
    assert str(fxquant.report(loaded)) == str(fxquant.report(gm))
    if stage == "int8":
        assert {quantize_adalog, int8_matmul} <= {n.target for n in loaded.graph.nodes}


def test_the_published_form(tmp_path: Path) -> None:
    gm = vit_at("int8", published=True)
    loaded = round_trip(gm, tmp_path)
    assert_same(gm, loaded, [images("vit", 1)])
    assert fake_quantize_adalog in {n.target for n in loaded.graph.nodes}
    reasons = [row.reason for row in fxquant.report(loaded) if row.reason is not None]
    assert reasons
    assert all("power of a fitted base as published" in reason for reason in reasons)


@pytest.mark.parametrize("spec", [AdaLogSoftmax(6), AdaLogGELU(3, published=True, minimum=-0.28)])
def test_specs_come_back(spec: Any) -> None:
    assert typed.decode(typed.encode(spec), OperandSpec) == spec


@pytest.mark.parametrize("change", [{"bits": 9}, {"published": 1}, {"base": 3}, {"minimum": 0.5}])
def test_forged_specs_are_refused(change: dict[str, Any]) -> None:
    data: Any = typed.encode(AdaLogGELU())
    with pytest.raises(fxquant.FxquantError):
        typed.decode(data | change, OperandSpec)
