"""Models with a placement come back from a file, at every stage: values, factors, powers of two and the integer softmax."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

import fxquant
from fxquant.checkpoint import typed
from fxquant.config.operands import TensorSpec
from fxquant.numerics.granularity import PerChannel
from fxquant.observers import PowerOfTwoFactor
from fxquant.observers.log2 import Log2, LogIntSoftmax
from fxquant.observers.operand_spec import OperandSpec
from fxquant.ops import dequantize_log2, log_int_softmax, quantize_log2
from tests.support.checkpoints import assert_same, at_stage, images, round_trip
from tests.support.tiers import keep_quick

STAGES = ("prepared", "calibrated", "fake", "int8")
RECIPES: dict[str, dict[str, Any]] = {
    "fqvit": {"softmax": "log_int", "power_of_two": True, "per_head": True},
    "itpn": {"softmax": "log2", "observer": "percentile"},
    "psaq": {"w_bits": 4, "observer": "ema"},
}


def at(stage: str, recipe: str, name: str = "vit") -> fx.GraphModule:
    return at_stage(name, stage, recipe, **RECIPES[recipe])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_stage(recipe: str, stage: str, tmp_path: Path) -> None:
    gm = at(stage, recipe)
    loaded = round_trip(gm, tmp_path)
    assert_same(gm, loaded, [images("vit", 1)])
    assert str(fxquant.report(loaded)) == str(fxquant.report(gm))


@pytest.mark.long
@pytest.mark.parametrize("stage", ["calibrated", "int8"])
def test_a_swin(stage: str, tmp_path: Path) -> None:
    gm = at(stage, "fqvit", "swin")
    assert_same(gm, round_trip(gm, tmp_path), [images("swin", 1)])


def test_these_graphs_hold_every_operator() -> None:
    targets = {n.target for recipe in RECIPES for n in at("int8", recipe).graph.nodes}
    assert {log_int_softmax, quantize_log2, dequantize_log2} <= targets


@pytest.mark.parametrize("recipe", keep_quick(RECIPES, "itpn"))
def test_calibration_goes_on(recipe: str, tmp_path: Path) -> None:
    prepared = copy.deepcopy(at("calibrated", recipe))
    loaded = round_trip(prepared, tmp_path)
    before = {name: value.clone() for name, value in loaded.state_dict().items()}
    for gm in (prepared, loaded):
        fxquant.calibrate(gm, [3 * images("vit", 1)], progress=False)
    assert_same(prepared, loaded)
    assert any(not value.equal(before[name]) for name, value in loaded.state_dict().items())
    found, expected = (fxquant.convert(gm) for gm in (loaded, prepared))
    assert_same(expected, found, [images("vit", 3)])


def test_lowered_graphs_are_exported_and_copied(tmp_path: Path) -> None:
    gm, x = round_trip(at("int8", "fqvit"), tmp_path), images("vit")
    exported: Any = torch.export.export(gm, (x,)).module()
    with torch.no_grad():
        for each in (copy.deepcopy(gm), exported):
            assert torch.equal(each(x), gm(x))


FACTORS = TensorSpec(granularity=PerChannel(-1), observer=PowerOfTwoFactor())


@pytest.mark.parametrize("spec", [Log2(), Log2(7), LogIntSoftmax(3), FACTORS], ids=repr)
def test_specs_come_back(spec: Any) -> None:
    found = typed.decode(typed.encode(spec), OperandSpec)
    assert found == spec
    assert type(found) is type(spec)


@pytest.mark.parametrize("change", [{"bits": 8}, {"bits": True}, {"bits": "4"}, {"qmax": 3}, {"type": "Log3"}])
def test_forged_specs_are_refused(change: dict[str, Any]) -> None:
    for spec in (Log2(), LogIntSoftmax()):
        data: Any = typed.encode(spec)
        with pytest.raises(fxquant.FxquantError):
            typed.decode(data | change, OperandSpec)


def test_factors_of_other_codes_are_refused() -> None:
    data: Any = typed.encode(FACTORS)
    with pytest.raises(fxquant.FxquantError):
        typed.decode(data | {"signed": True}, OperandSpec)
