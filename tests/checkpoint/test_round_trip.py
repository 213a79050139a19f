"""What is saved comes back: the same graph, the same bits, at every stage."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.graph.meta import module_path
from tests.support import checkpoints
from tests.support.checkpoints import STAGES, assert_same, at_stage, images, round_trip


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ["vit", "swin", "conv", "vit_bfloat16"])
def test_every_stage(name: str, stage: str, tmp_path: Path) -> None:
    gm = at_stage(name, stage, attention=name == "vit")
    assert_same(gm, round_trip(gm, tmp_path), [images(name)])


# Those that turn a residual stream need one, and `conv` has none.
@pytest.mark.parametrize("recipe", [name for name in fxquant.recipes() if name not in ("rotate", "glfq")])
def test_every_recipe(recipe: str, tmp_path: Path) -> None:
    for stage in ("prepared", "calibrated", "int8"):
        gm = at_stage("conv", stage, recipe)
        assert_same(gm, round_trip(gm, tmp_path), [images("conv")])


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("stage", ["fake", "int8"])
def test_every_width(bits: int, stage: str, tmp_path: Path) -> None:
    gm = at_stage("conv", stage, w_bits=bits, a_bits=bits)
    loaded = round_trip(gm, tmp_path)
    assert_same(gm, loaded, [images("conv", seed=1)])
    _, stored = checkpoints.read_parts(tmp_path / "model.safetensors")
    for name, codes in gm.state_dict().items():
        if codes.dtype is torch.int8:
            width = {2: 2, 3: 4, 4: 4}.get(bits, 8)
            assert stored[name].nbytes == -(-codes.numel() * width // 8), name


def test_w4a4_vit(tmp_path: Path) -> None:
    gm = at_stage("vit", "int8", w_bits=4, a_bits=4, attention=True)
    assert_same(gm, round_trip(gm, tmp_path), [images("vit", seed=1)])


def test_unsigned_four_bit_weights_are_packed(tmp_path: Path) -> None:
    spec = fxquant.TensorSpec(4, granularity=fxquant.PerChannel(0))
    prepared = fxquant.prepare(at_stage("conv", "float"), fxquant.QuantConfig(fxquant.LayerSpec(weight=spec)))
    fxquant.calibrate(prepared, [images("conv")], progress=False)
    for gm in (fxquant.convert(prepared, "fake"), fxquant.convert(prepared)):
        assert_same(gm, round_trip(gm, tmp_path), [images("conv")])
        _, stored = checkpoints.read_parts(tmp_path / "model.safetensors")
        codes = [name for name, t in gm.state_dict().items() if t.dtype is torch.int8]
        assert codes
        assert all(stored[name].dtype is torch.uint8 for name in codes)
        assert all(int(gm.state_dict()[name].min()) >= 0 for name in codes)


def test_size_of_the_file(tmp_path: Path) -> None:
    sizes = {}
    for bits in (4, 8, 32):
        gm = at_stage("vit_wide", "float") if bits == 32 else at_stage("vit_wide", "int8", w_bits=bits)
        fxquant.save(gm, tmp_path / "model.safetensors")
        sizes[bits] = (tmp_path / "model.safetensors").stat().st_size
    assert sizes[8] < sizes[32] / 3
    assert sizes[4] < 0.62 * sizes[8]


def test_loaded_float_graph_goes_through_all_verbs(tmp_path: Path) -> None:
    gm = round_trip(at_stage("swin", "float"), tmp_path)
    prepared = fxquant.prepare(gm, fxquant.recipe("minmax"))
    fxquant.calibrate(prepared, [images("swin")], progress=False)
    found, expected = fxquant.convert(prepared), at_stage("swin", "int8")
    assert_same(expected, found, [images("swin")])
    assert str(fxquant.report(found)) == str(fxquant.report(expected))


def test_report_and_module_paths_survive(tmp_path: Path) -> None:
    gm = at_stage("vit", "int8", attention=True)
    loaded = round_trip(gm, tmp_path)
    assert str(fxquant.report(loaded)) == str(fxquant.report(gm))
    assert [module_path(n) for n in loaded.graph.nodes] == [module_path(n) for n in gm.graph.nodes]
    assert "blocks.1.attn.qkv" in {module_path(n) for n in loaded.graph.nodes}


def test_loaded_graph_is_ordinary(tmp_path: Path) -> None:
    gm = at_stage("conv", "int8")
    x = images("conv")
    loaded = round_trip(gm, tmp_path)
    other = copy.deepcopy(gm)
    for tensor in (*other.parameters(), *other.buffers()):
        tensor.data.zero_()
    other.load_state_dict(loaded.state_dict())
    exported = torch.export.export(loaded, (x,)).module()
    with torch.no_grad():
        for each in (copy.deepcopy(loaded), other, exported):
            assert torch.equal(each(x), gm(x))
    assert_same(loaded, round_trip(loaded, tmp_path), [x])


def test_no_source_location_is_saved(tmp_path: Path) -> None:
    gm = at_stage("vit", "float")
    assert any("vision_transformer.py" in (n.stack_trace or "") for n in gm.graph.nodes)
    fxquant.save(gm, tmp_path / "model.safetensors")
    assert b".py" not in (tmp_path / "model.safetensors").read_bytes()


def test_shapes_survive(tmp_path: Path) -> None:
    gm = fxquant.trace(checkpoints.model_named("conv"), images("conv"))
    loaded = round_trip(gm, tmp_path)
    for node, other in zip(loaded.graph.nodes, gm.graph.nodes, strict=True):
        assert ("val" in node.meta) == ("val" in other.meta)
        value, wanted = node.meta.get("val"), other.meta.get("val")
        if isinstance(wanted, Tensor):
            assert (value.shape, value.dtype, value.device) == (wanted.shape, wanted.dtype, torch.device("meta"))


def test_training_flag(tmp_path: Path) -> None:
    prepared = copy.deepcopy(at_stage("conv", "prepared")).train()
    assert round_trip(prepared, tmp_path).training


def test_other_things_than_graphs_are_refused(tmp_path: Path) -> None:
    things: tuple[Any, ...] = (checkpoints.conv_net(), fx.symbolic_trace(nn.Linear(2, 2)), {})
    for thing in things:
        with pytest.raises(fxquant.CheckpointError, match=r"expected a graph from fxquant\.trace"):
            fxquant.save(thing, tmp_path / "model.safetensors")
