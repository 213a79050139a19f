"""`fxquant.compile` computes what the graph does, for any batch size; `torch.compile` and `torch.export` work too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import ConfigError, LayerSpec, QuantConfig, TwinGELU, TwinSoftmax
from fxquant.compiling import CompiledGraph
from fxquant.kernel_names import CPU_KERNELS
from fxquant.kernels import cpu, use_backend


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", CONFIGS)
def test_compiles_with_any_batch_size(config: str, dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    gm, x = converted(dtype, config=config)
    before = gm.print_readable(print_output=False)
    compiled = fxquant.compile(gm)
    assert isinstance(compiled, CompiledGraph)
    kernels = {
        r.kernel
        for r in fxquant.report(compiled)
        if r.int8 and "mat" not in r.product and r.product not in ("qk", "pv")
    }
    assert kernels == {CPU_KERNELS} if cpu.is_available() else CPU_KERNELS not in kernels
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for batch in (x, x[:2], x[:3]):
        found = compiled(batch)
        assert found.dtype is dtype
        assert close(gm(batch), found)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - graphs <= 2, "one graph for this size, one for any"
    assert not torch._dynamo.utils.counters["graph_break"]
    assert gm.print_readable(print_output=False) == before


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


@pytest.mark.parametrize("config", CONFIGS)
def test_exports_with_a_free_batch_size(config: str) -> None:
    gm, x = converted(config=config)
    batch = {0: torch.export.Dim("batch")}
    exported = torch.export.export(gm, (x,), dynamic_shapes=(batch,)).module()
    for images in (x, x[:3], torch.randn(7, 20, 16)):
        with use_backend("aten"):  # which is what is exported
            assert torch.equal(exported(images), gm(images))
