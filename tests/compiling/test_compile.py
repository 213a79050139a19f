"""`fxquant.compile` computes what the graph does, for any batch size; `torch.compile` and `torch.export` work too."""

from __future__ import annotations

import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import ConfigError, LayerSpec, QuantConfig, TwinGELU, TwinSoftmax, UnsupportedGraphError
from fxquant.compiling.compile import guards_to_keep
from fxquant.inspection.kernel_names import cpu_kernels
from fxquant.kernels import cpu, use_backend
from tests.support.tiers import keep_quick

needs_cpu_kernels = pytest.mark.skipif(cpu.obstacle() is not None, reason=f"needs the CPU kernels: {cpu.obstacle()}")


class Block(nn.Module):
    """Attention and an MLP, as in a ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, N, C)``."""
        q, k, v = self.qkv(self.norm(x)).reshape(x.shape[0], x.shape[1], 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + self.proj(attended)
        return x + self.mlp(x)


TWIN = LayerSpec(softmax=TwinSoftmax(), gelu=TwinGELU())
CONFIGS = {"linear layers": QuantConfig(), "everything": QuantConfig(TWIN, attention=True)}


def converted(
    dtype: torch.dtype = torch.float32, target: str = "int8", config: str = "linear layers"
) -> tuple[fx.GraphModule, Tensor]:
    torch.manual_seed(0)
    model, x = Block().eval().to(dtype), torch.randn(4, 20, 16).to(dtype)
    prepared = fxquant.prepare(model, CONFIGS[config])
    fxquant.calibrate(prepared, [x], progress=False)
    return fxquant.convert(prepared, target), x  # type: ignore[arg-type]


def close(expected: Tensor, found: Tensor) -> bool:
    # fused kernels round elsewhere, so that a code on the boundary may differ: much less than one in a hundred does
    return bool((expected - found).float().norm() <= 0.01 * expected.float().norm())


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float8_compiles_with_any_batch_size(dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, x = Block().eval().to(dtype), torch.randn(4, 20, 16).to(dtype)
    gm = fxquant.quantize(model, [x], "dynamic", progress=False, codes="e4m3")
    compiled = fxquant.compile(gm)
    for batch in (x, x[:3], torch.cat((x, x))):
        assert close(gm(batch), compiled(batch))
    assert {r.kernel for r in fxquant.report(compiled) if r.codes} == {"torch matmul of dequantised codes"}


@pytest.mark.parametrize(
    ("config", "dtype"),
    keep_quick(
        product(CONFIGS, [torch.float32, torch.bfloat16]),
        *(("linear layers", torch.float32), ("everything", torch.bfloat16)),
    ),
)
def test_compiles_with_any_batch_size(config: str, dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # which other tests fill as well
    gm, x = converted(dtype, config=config)
    before, tensors = gm.print_readable(print_output=False), gm.state_dict(keep_vars=True)
    compiled = fxquant.compile(gm)
    kernels = {
        r.kernel
        for r in fxquant.report(compiled)
        if r.int8 and "mat" not in r.product and r.product not in ("qk", "pv")
    }
    assert kernels == {cpu_kernels()} if cpu.is_available() else cpu_kernels() not in kernels
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for batch in (x, x[:2], x[:3]):
        found = compiled(batch)
        assert found.dtype is dtype
        assert close(gm(batch), found)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - graphs <= 2, "one graph for this size, one for any"
    assert not torch._dynamo.utils.counters["graph_break"]
    assert gm.print_readable(print_output=False) == before
    assert all(gm.state_dict(keep_vars=True)[name] is tensor for name, tensor in tensors.items())


@needs_cpu_kernels
@pytest.mark.parametrize("kind", [str, Path])
def test_of_a_file_each_weight_is_given_up_as_soon_as_it_is_packed(
    kind: type[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    gm, x = converted()
    fxquant.save(gm, tmp_path / "model.safetensors")
    weights: list[weakref.ref[Tensor]] = []

    def pack(weight: Tensor, outputs: int, depth: int, pack: Any = cpu.pack) -> Any:
        assert all(earlier() is None for earlier in weights)
        weights.append(weakref.ref(weight))
        return pack(weight, outputs, depth)

    with monkeypatch.context() as patched:
        patched.setattr(cpu, "pack", pack)
        compiled = fxquant.compile(kind(tmp_path / "model.safetensors"))
    assert len(weights) == 4
    assert torch.equal(compiled(x), fxquant.compile(gm)(x))
    assert compiled.card == fxquant.load(tmp_path / "model.safetensors").card


def test_a_file_that_is_compiled_is_in_evaluation_mode_and_on_the_device_asked_for(tmp_path: Path) -> None:
    fxquant.save(fxquant.trace(nn.Linear(4, 4).eval()).train(), tmp_path / "model.safetensors")
    graph = fxquant.compile(tmp_path / "model.safetensors", device="meta").graph_module
    assert not graph.training
    assert {tensor.device.type for tensor in graph.state_dict().values()} == {"meta"}


def test_first_calls_of_a_size_are_made_one_by_one_and_leave_no_freed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed: list[None] = []
    monkeypatch.setattr("fxquant.compiling.compile.trim_heap", lambda: trimmed.append(None))
    compiled, x = fxquant.compile(converted()[0]), torch.zeros(2, 20, 16)
    side_by_side = threading.Barrier(2)

    class Counting(nn.Module):
        inside = most = 0

        def forward(self, x: Tensor) -> Tensor:
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(0.01)
            self.inside -= 1
            return x

    class Meeting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            side_by_side.wait(60)
            return x

    with ThreadPoolExecutor(2) as pool:
        compiled.compiled = Counting()
        list(pool.map(compiled, [x, x]))
        assert compiled.compiled.most == 1
        compiled.compiled = Meeting()
        list(pool.map(compiled, [x, x]))  # of a size that is known
    assert len(trimmed) == 2


@pytest.mark.long
@pytest.mark.parametrize("backend", ["auto", "aten"])
def test_threads_get_what_one_gets(backend: str) -> None:
    torch._dynamo.reset()
    gm, _ = converted()
    compiled = fxquant.compile(gm, backend=backend)
    torch._dynamo.utils.counters.clear()
    batches = [torch.randn(size, 20, 16) for size in (1, 2, 3, 4, 8, 1, 2, 5)]
    start = threading.Barrier(len(batches))

    def first(batch: Tensor) -> Tensor:
        start.wait()
        return compiled(batch)

    with ThreadPoolExecutor(len(batches)) as pool:
        found = list(pool.map(first, batches))
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3, "one for a size, one for 1, one for any"
        alone, eager = [compiled(batch) for batch in batches], [gm(batch) for batch in batches]
        assert all(map(torch.equal, found, alone))
        for model, wanted in ((compiled, alone), (gm, eager)):
            assert all(map(torch.equal, pool.map(model, batches * 25), wanted * 25))


def test_the_aten_backend_uses_none_of_our_kernels() -> None:
    torch._dynamo.reset()
    gm, x = converted()
    compiled = fxquant.compile(gm, backend="aten")
    assert not any("cpu_" in str(n.target) for n in compiled.graph_module.graph.nodes)  # type: ignore[union-attr]
    with use_backend("aten"):
        assert close(gm(x), compiled(x))


def test_refuses_an_unknown_backend() -> None:
    with pytest.raises(ConfigError, match=r"unknown backend 'tensorrt': expected one of 'auto', 'aten'"):
        fxquant.compile(converted()[0], backend="tensorrt")


def test_other_stages_compile_as_they_are() -> None:
    torch._dynamo.reset()
    gm, x = converted(target="fake")
    compiled = fxquant.compile(gm)
    assert close(gm(x), compiled(x))


@pytest.mark.parametrize("config", keep_quick(CONFIGS, "linear layers"))
def test_exports_with_a_free_batch_size(config: str) -> None:
    gm, x = converted(config=config)
    batch = {0: torch.export.Dim("batch")}
    exported = torch.export.export(gm, (x,), dynamic_shapes=(batch,)).module()
    for images in (x, x[:3], torch.randn(7, 20, 16)):
        with use_backend("aten"):  # which is what is exported
            assert torch.equal(exported(images), gm(images))


@needs_cpu_kernels
@pytest.mark.parametrize("dtype", keep_quick([torch.float64, torch.float16, torch.bfloat16], torch.bfloat16))
def test_images_of_another_dtype(dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    gm, x = converted()
    found = fxquant.compile(gm)(x.to(dtype))
    assert close(gm(x.to(dtype).float()), found.float())


@needs_cpu_kernels
def test_a_model_that_was_cast_is_refused() -> None:
    gm, x = converted()
    with pytest.raises(RuntimeError, match=r"expected the scale in float32 .*, found bfloat16"):
        gm.to(torch.bfloat16)(x.bfloat16())


def test_the_report_names_the_kernels_of_the_backend() -> None:
    gm, _ = converted()
    kernels = {r.kernel for r in fxquant.report(fxquant.compile(gm, backend="aten")) if r.int8}
    assert kernels == {"torch._int_mm"}
    with use_backend("aten"):
        assert {r.kernel for r in fxquant.report(gm) if r.int8} == {"torch._int_mm"}


def test_refuses_what_is_no_graph() -> None:
    gm, _ = converted()
    with pytest.raises(
        UnsupportedGraphError,
        match="expected a graph that fxquant made, or the path of one that it saved, found a Comp",
    ):
        fxquant.compile(fxquant.compile(gm))  # type: ignore[arg-type]


def test_an_example_decides_the_shapes_of_the_report() -> None:
    gm, x = converted()
    for batch in (1, 7):
        compiled = fxquant.compile(gm, example_inputs=x[:1].repeat(batch, 1, 1))
        assert {r.output_shape[0] for r in fxquant.report(compiled) if r.output_shape} == {batch}


def test_of_the_guards_on_the_models_tensors_the_first_of_each_dtype_is_kept() -> None:
    x, codes = torch.zeros(1), torch.zeros(1, dtype=torch.int8)
    entries = [("x", "TENSOR_MATCH", x), ("self._modules", "TYPE_MATCH", {}), ("self.a", "TENSOR_MATCH", codes)]
    entries += [("self.b", "TENSOR_MATCH", x), ("self.c", "TENSOR_MATCH", codes), ("", "GRAD_MODE", None)]
    guards = [SimpleNamespace(name=name, guard_type=kind, value=value) for name, kind, value in entries]
    assert guards_to_keep(guards) == [True, False, True, True, False, True]


def test_a_compiled_float_model_follows_its_dtype() -> None:
    gm = fxquant.trace(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).eval())
    compiled, x = fxquant.compile(gm), torch.randn(3, 4)
    assert compiled(x).dtype is torch.float32
    gm.double()
    torch.testing.assert_close(compiled(x.double()), gm(x.double()))


@pytest.mark.long
def test_a_placement_compiles() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    x = torch.randn(4, 20, 16)
    prepared = fxquant.prepare(Block().eval(), fxquant.recipe("fqvit", softmax="log_int", per_head=True))
    gm = fxquant.convert(fxquant.calibrate(prepared, [x], progress=False))
    assert close(gm(x), fxquant.compile(gm)(x))


def test_without_a_compiler_the_kernels_run_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gm, x = converted(config="everything")
    expected = gm(x)
    monkeypatch.setattr("fxquant.compiling.compile.compiler", lambda: None)
    compiled = fxquant.compile(gm)
    assert "torch.compile is left out" in caplog.text
    assert compiled.compiled is compiled.graph_module
    assert close(expected, compiled(x))
