"""Twin-uniform operands and products of activations come back from a file, at every stage and in what they compute."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

import fxquant
from fxquant import LayerSpec, PerHead, QuantConfig, TensorSpec, TwinGELU, TwinSoftmax
from fxquant.checkpoint import typed
from fxquant.observers.operand_spec import OperandSpec
from fxquant.ops import (
    fake_quantize_summed_twin,
    int8_linear_add,
    int8_linear_gelu_quantize_twin,
    int8_linear_twin_add,
    int8_matmul,
    int8_matmul_twin,
    layer_norm_quantize,
    quantize_twin,
)
from tests.support.checkpoints import assert_same, at_stage, images, round_trip

HEADS = TensorSpec(granularity=PerHead())
TWIN = LayerSpec(query=HEADS, softmax=TwinSoftmax(), gelu=TwinGELU(6, power_of_two=True))
PUBLISHED = LayerSpec(softmax=TwinSoftmax(4, False, True), gelu=TwinGELU(published=True, minimum=-0.28))
STAGES = ("prepared", "calibrated", "fake", "int8")


def twin_at(stage: str, layer: LayerSpec, name: str = "vit") -> fx.GraphModule:
    prepared = fxquant.prepare(at_stage(name, "float"), QuantConfig(layer, attention=True))
    if stage == "prepared":
        return prepared
    fxquant.calibrate(prepared, [images(name)], progress=False)
    return prepared if stage == "calibrated" else fxquant.convert(prepared, "fake" if stage == "fake" else "int8")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("layer", [TWIN, PUBLISHED], ids=["twin", "published"])
def test_every_stage(layer: LayerSpec, stage: str, tmp_path: Path) -> None:
    gm = twin_at(stage, layer)
    loaded = round_trip(gm, tmp_path)
    assert_same(gm, loaded, [images("vit", 1)])
    assert str(fxquant.report(loaded)) == str(fxquant.report(gm))


@pytest.mark.parametrize("name", ["swin", "vit_bfloat16"])
def test_other_models(name: str, tmp_path: Path) -> None:
    gm = twin_at("int8", TWIN, name)
    assert_same(gm, round_trip(gm, tmp_path), [images(name, 1)])


def test_these_graphs_hold_every_operator() -> None:
    fake, int8 = twin_at("fake", PUBLISHED), twin_at("int8", TWIN)
    targets = {n.target for gm in (fake, int8) for n in gm.graph.nodes}
    assert {quantize_twin, fake_quantize_summed_twin, int8_linear_twin_add, int8_matmul, int8_matmul_twin} <= targets
    assert {layer_norm_quantize, int8_linear_gelu_quantize_twin, int8_linear_add} <= targets


def test_calibration_goes_on(tmp_path: Path) -> None:
    prepared = twin_at("calibrated", TWIN)
    loaded = round_trip(prepared, tmp_path)
    for gm in (prepared, loaded):
        fxquant.calibrate(gm, [images("vit", 1)], progress=False)
    assert_same(prepared, loaded)
    assert_same(fxquant.convert(prepared), fxquant.convert(loaded), [images("vit", 2)])


def test_what_a_search_found_is_kept(tmp_path: Path) -> None:
    prepared = copy.deepcopy(twin_at("calibrated", TWIN))
    found = [m for m in prepared.modules() if isinstance(getattr(m, "spec", None), TwinGELU)]
    for observer in found:
        observer.refine(observer.scaled(0.5))  # type: ignore[operator]
    assert found
    assert_same(prepared, round_trip(prepared, tmp_path))


def test_lowered_graphs_are_exported_and_copied(tmp_path: Path) -> None:
    gm, x = round_trip(twin_at("int8", TWIN), tmp_path), images("vit")
    exported: Any = torch.export.export(gm, (x,)).module()
    with torch.no_grad():
        for each in (copy.deepcopy(gm), exported):
            assert torch.equal(each(x), gm(x))


@pytest.mark.parametrize("spec", [TwinGELU(3, True, True), TwinSoftmax(2, False), TwinSoftmax()])
def test_specs_come_back(spec: Any) -> None:
    data = typed.encode(spec)
    assert typed.decode(data, OperandSpec) == spec
    assert data == {
        "type": type(spec).__name__,
        "bits": spec.bits,
        "power_of_two": spec.power_of_two,
        "published": spec.published,
        **({"minimum": spec.minimum} if isinstance(spec, TwinGELU) else {}),
    }


@pytest.mark.parametrize(
    "change", [{"bits": 9}, {"bits": True}, {"published": 1}, {"qmax": 3}, {"bits": "8"}, {"minimum": 0.5}]
)
def test_forged_specs_are_refused(change: dict[str, Any]) -> None:
    data: Any = typed.encode(TwinGELU())
    with pytest.raises(fxquant.FxquantError):
        typed.decode(data | change, OperandSpec)
