"""What is saved comes back: the same graph, the same bits, at every stage."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant.meta import module_path
from fxquant.observers.input_recorder import InputRecorder
from fxquant.spec import Stage
from tests.checkpoint import helpers
from tests.checkpoint.helpers import STAGES, assert_same, assert_same_tensors, at_stage, images, round_trip


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ["vit", "swin", "conv", "vit_bfloat16"])
def test_every_stage(name: str, stage: str, tmp_path: Path) -> None:
    gm = at_stage(name, stage, attention=name == "vit")
    assert_same(gm, round_trip(gm, tmp_path), [images(name)])


@pytest.mark.parametrize("recipe", fxquant.recipes())
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
    _, stored = helpers.read_parts(tmp_path / "model.safetensors")
    for name, codes in gm.state_dict().items():
        if codes.dtype is torch.int8:
            assert stored[name].nbytes == ((codes.numel() + 1) // 2 if bits <= 4 else codes.numel()), name


def test_w4a4_vit(tmp_path: Path) -> None:
    gm = at_stage("vit", "int8", w_bits=4, a_bits=4, attention=True)
    assert_same(gm, round_trip(gm, tmp_path), [images("vit", seed=1)])


def test_unsigned_four_bit_weights_are_packed(tmp_path: Path) -> None:
    spec = fxquant.TensorSpec(4, granularity=fxquant.PerChannel(0))
    prepared = fxquant.prepare(at_stage("conv", "float"), fxquant.QuantConfig(fxquant.LayerSpec(weight=spec)))
    fxquant.calibrate(prepared, [images("conv")], progress=False)
    for gm in (fxquant.convert(prepared, "fake"), fxquant.convert(prepared)):
        assert_same(gm, round_trip(gm, tmp_path), [images("conv")])
        _, stored = helpers.read_parts(tmp_path / "model.safetensors")
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
    gm = fxquant.trace(helpers.model_named("conv"), images("conv"))
    loaded = round_trip(gm, tmp_path)
    for node, other in zip(loaded.graph.nodes, gm.graph.nodes, strict=True):
        assert ("val" in node.meta) == ("val" in other.meta)
        value, wanted = node.meta.get("val"), other.meta.get("val")
        if isinstance(wanted, Tensor):
            assert (value.shape, value.dtype, value.device) == (wanted.shape, wanted.dtype, torch.device("meta"))


class Mixed(nn.Module):
    """A layer called twice, over tensors of every kind."""

    shift: Tensor
    hidden: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.tensor([float("nan"), 1.0, -0.0, 1, 1, 1, 1, 1]), requires_grad=False)
        self.register_buffer("shift", torch.full((8,), float("-inf")))
        self.register_buffer("hidden", torch.arange(8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix everything into ``(B, 8)``."""
        x = self.layer(self.layer(x)) * self.scale
        return torch.maximum(x, self.shift) + self.hidden


def test_kinds_of_tensors_and_their_sharing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    gm = fxquant.trace(Mixed().eval())
    weight = gm.get_parameter("layer.weight")
    other = nn.Linear(8, 8)
    other.weight = weight
    gm.add_module("tied", other)
    gm.register_buffer("alias", weight.detach())
    gm.register_buffer("cache", torch.arange(3), persistent=False)
    gm.register_buffer("empty", torch.zeros(2, 0, 3))
    gm.register_buffer("also_empty", torch.zeros(2, 0, 3))
    loaded = round_trip(gm, tmp_path)
    assert_same_tensors(gm, loaded)
    assert loaded.get_parameter("tied.weight") is loaded.get_parameter("layer.weight")
    assert loaded.get_buffer("alias").data_ptr() == loaded.get_parameter("layer.weight").data_ptr()
    assert isinstance(loaded.get_parameter("layer.weight"), nn.Parameter)
    assert "cache" not in loaded.state_dict()
    assert loaded.get_buffer("cache").equal(torch.arange(3))
    _, stored = helpers.read_parts(tmp_path / "model.safetensors")
    assert len(stored) == len(list(gm.parameters())) + len(list(gm.buffers())) - 1
    x = torch.randn(4, 8)
    assert gm(x).nan_to_num(7).equal(loaded(x).nan_to_num(7))


def test_views_of_one_memory_are_stored_apart(tmp_path: Path) -> None:
    gm = copy.deepcopy(at_stage("conv", "float"))
    flat = torch.randn(16 * 5 + 16)
    head = gm.get_submodule("head")
    head.weight = nn.Parameter(flat[: 16 * 5].view(5, 16))
    head.bias = nn.Parameter(flat[16 * 5 : 16 * 5 + 5])
    assert_same_tensors(gm, round_trip(gm, tmp_path))


def test_memory_layout_survives(tmp_path: Path) -> None:
    model = helpers.conv_net().to(memory_format=torch.channels_last)
    gm = fxquant.trace(model)
    assert not gm.get_parameter("stem.weight").is_contiguous()
    assert_same(gm, round_trip(gm, tmp_path), [images("conv")])


def graph_of(build: Callable[[fx.Graph, fx.Node], fx.Node]) -> fx.GraphModule:
    """Return a FLOAT graph module of one input, built by hand."""
    graph = fx.Graph()
    graph.output(build(graph, graph.placeholder("x")))
    gm = fx.GraphModule(nn.Module(), graph).eval()
    gm.meta["stage"] = Stage.FLOAT
    return gm


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (torch.full, ((2, 3), float("inf")), {"dtype": torch.float64, "device": torch.device("cpu")}),
        (torch.full, (torch.Size([2, 3]), float("nan")), {"layout": torch.strided}),
        (torch.zeros, ([2, 3],), {"dtype": None, "requires_grad": False}),
        (torch.arange, (-(2**63), 2**63 - 1, 2**62), {}),
        (torch.full, ((1,), -1e-300), {"dtype": torch.float64}),
        (torch.einsum, ("ij->ji", torch.ones), {}),
    ],
)
def test_kinds_of_arguments(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tmp_path: Path) -> None:
    args = tuple(2.0 if a is torch.ones else a for a in args)
    gm = graph_of(lambda graph, x: graph.call_function(function, args, kwargs))
    loaded = round_trip(gm, tmp_path)
    for node, other in zip(loaded.graph.nodes, gm.graph.nodes, strict=True):
        assert repr((node.args, node.kwargs)) == repr((other.args, other.kwargs))


def test_indexing_with_slices_and_ellipsis(tmp_path: Path) -> None:
    index: Any = (..., slice(None, -1, 2), None, slice(1, None))
    gm = graph_of(lambda graph, x: graph.call_function(operator.getitem, (x, index)))
    x = torch.randn(2, 4, 6)
    assert_same(gm, round_trip(gm, tmp_path), [x])


def test_memory_format_and_dict_arguments(tmp_path: Path) -> None:
    gm = graph_of(lambda graph, x: graph.call_method("contiguous", (x,), {"memory_format": torch.channels_last}))
    assert_same(gm, round_trip(gm, tmp_path), [torch.randn(1, 2, 3, 3)])
    gm = graph_of(lambda graph, x: x)
    gm.graph.output_node().args = ({"logits": gm.graph.find_nodes(op="placeholder")[0], "extra": (1, [])},)
    gm.recompile()
    assert round_trip(gm, tmp_path)(torch.ones(1)) == {"logits": torch.ones(1), "extra": (1, [])}


def test_training_flag(tmp_path: Path) -> None:
    prepared = copy.deepcopy(at_stage("conv", "prepared")).train()
    assert round_trip(prepared, tmp_path).training


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda graph, x: graph.call_function(print, (x,)), "print"),
        (lambda graph, x: graph.call_function(torch.save, (x, "f")), "torch.serialization.save"),
        (lambda graph, x: graph.call_function(F.relu, (x, complex(1, 2))), "complex"),
        (lambda graph, x: graph.call_function(getattr, (x, "__class__")), "__class__"),
        (lambda graph, x: graph.call_method("numpy", (x,)), "numpy"),
        (lambda graph, x: graph.call_function(torch.add, (x, 1), {"out": x}), "out"),
        (lambda graph, x: graph.call_function(torch.full, ((1,), 2**70)), "64 bits"),
    ],
)
def test_what_cannot_be_stored_is_named(build: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(fxquant.CheckpointError, match=named):
        fxquant.save(graph_of(build), tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_other_things_than_graphs_are_refused(tmp_path: Path) -> None:
    things: tuple[Any, ...] = (helpers.conv_net(), fx.symbolic_trace(nn.Linear(2, 2)), {})
    for thing in things:
        with pytest.raises(fxquant.CheckpointError, match=r"expected a graph from fxquant\.trace"):
            fxquant.save(thing, tmp_path / "model.safetensors")


def test_tensors_without_values_are_refused(tmp_path: Path) -> None:
    gm = copy.deepcopy(at_stage("conv", "float")).to("meta")
    with pytest.raises(fxquant.CheckpointError, match=r"stem\.weight.*meta"):
        fxquant.save(gm, tmp_path / "model.safetensors")


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_save_and_load_on_cuda(tmp_path: Path) -> None:
    x = images("vit")
    gm = copy.deepcopy(at_stage("vit", "int8"))
    fxquant.save(gm.to("cuda"), tmp_path / "model.safetensors")
    assert_same_tensors(gm.cpu(), fxquant.load(tmp_path / "model.safetensors"))
    loaded = fxquant.load(tmp_path / "model.safetensors", device="cuda")
    assert {t.device.type for t in (*loaded.parameters(), *loaded.buffers())} == {"cuda"}
    with torch.no_grad():
        assert torch.equal(loaded(x.cuda()), gm.cuda()(x.cuda()))
