"""Observers and recorders come back with what they have seen."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch

import fxquant
from fxquant.observers.input_recorder import InputRecorder
from tests.support.checkpoints import assert_same, assert_same_tensors, at_stage, images, round_trip
from tests.support.models import Conditioned, conditions


def test_calibration_goes_on(tmp_path: Path) -> None:
    prepared = copy.deepcopy(at_stage("vit", "calibrated", "ema"))
    loaded = round_trip(prepared, tmp_path)
    for gm in (prepared, loaded):
        fxquant.calibrate(gm, [images("vit", 1), images("vit", 2)], progress=False)
    assert_same(prepared, loaded)
    x = images("vit", 3)
    assert_same(fxquant.convert(prepared), fxquant.convert(loaded), [x])
    assert_same(fxquant.convert(prepared, "fake"), fxquant.convert(loaded, "fake"), [x])


def test_loaded_observers_stay_frozen_and_recorders_know_the_dtype(tmp_path: Path) -> None:
    loaded = round_trip(at_stage("vit_bfloat16", "calibrated"), tmp_path)
    recorder = next(m for m in loaded.modules() if isinstance(m, InputRecorder))
    assert recorder.example().dtype is torch.bfloat16
    before = {name: int(b) for name, b in loaded.named_buffers() if name.endswith("weight.batches")}
    loaded(images("vit_bfloat16"))
    assert {name: int(b) for name, b in loaded.named_buffers() if name in before} == before


def test_recorders_know_masks_and_what_they_saw(tmp_path: Path) -> None:
    prepared = fxquant.prepare(Conditioned().eval(), fxquant.recipe("minmax"), conditions())
    tokens, index, mask = conditions()
    prepared(torch.zeros_like(tokens), index, mask)
    loaded = round_trip(prepared, tmp_path)
    recorders = [m for m in loaded.modules() if isinstance(m, InputRecorder)]
    assert [(r.operand, r.images, r.infinite, r.range) for r in recorders] == [
        ("tokens", True, False, (0.0, 0.0)),
        ("index", False, False, None),
        ("mask", False, True, (-math.inf, 0.0)),
    ]
    with pytest.raises(fxquant.CalibrationError, match="found the constant 0"):
        fxquant.convert(loaded)
    loaded(tokens, index, mask)
    fxquant.convert(loaded)


def test_observers_of_torch_ao(tmp_path: Path) -> None:
    ao = pytest.importorskip("torch.ao.quantization")
    x = images("conv")
    prepared = fxquant.prepare(at_stage("conv", "float"), ao.get_default_qconfig_mapping("x86"))
    with pytest.raises(fxquant.CheckpointError, match=r"TorchAo.*convert the model first"):
        fxquant.save(prepared, tmp_path / "model.safetensors")
    fxquant.calibrate(prepared, [x], progress=False)
    gm = fxquant.convert(prepared)
    loaded = round_trip(gm, tmp_path)
    assert_same_tensors(gm, loaded)
    assert torch.equal(gm(x), loaded(x))
    assert str(fxquant.report(gm)) == str(fxquant.report(loaded))


def test_an_observer_with_two_names_is_refused(tmp_path: Path) -> None:
    prepared = copy.deepcopy(at_stage("conv", "prepared"))
    first, second, *_ = prepared.graph.find_nodes(op="call_module")
    prepared.set_submodule(str(second.target), prepared.get_submodule(str(first.target)))
    with pytest.raises(fxquant.CheckpointError, match="are one"):
        fxquant.save(prepared, tmp_path / "model.safetensors")


def test_statistics_taken_in_inference_mode(tmp_path: Path) -> None:
    prepared = copy.deepcopy(at_stage("conv", "prepared"))
    with torch.inference_mode():
        prepared(images("conv"))
        loaded = round_trip(prepared, tmp_path)
    loaded(images("conv", 1))
    prepared(images("conv", 1))
    assert_same(prepared, loaded)
    assert_same(prepared, round_trip(prepared, tmp_path))


def test_changed_observers_are_refused(tmp_path: Path) -> None:
    prepared = copy.deepcopy(at_stage("conv", "calibrated", "ema"))
    observer = next(m for n, m in prepared.named_modules() if n.startswith("observers.") and hasattr(m, "sigma"))
    observer.sigma = 0.5
    with pytest.raises(fxquant.CheckpointError, match="not as its spec builds it"):
        fxquant.save(prepared, tmp_path / "model.safetensors")
