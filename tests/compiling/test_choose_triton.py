"""`slower_sites` measures each shape of a linear layer once and names those that int8 does not make faster."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant import ConfigError, LayerSpec, QuantConfig, TwinGELU
from fxquant.compiling import choose_triton
from fxquant.compiling.choose_triton import Shape, linear_shapes, slower_sites
from tests.support.models import images, small_vit


def converted(config: QuantConfig | None = None, dtype: torch.dtype = torch.float32) -> torch.fx.GraphModule:
    x = images().to(dtype)
    prepared = fxquant.prepare(small_vit().to(dtype), config or fxquant.recipe("minmax"), x)
    return fxquant.convert(fxquant.calibrate(prepared, [x], progress=False))


def test_shapes_are_those_of_the_example() -> None:
    shapes = linear_shapes(converted(), (images(6),))
    assert len(shapes) == 10
    float32 = torch.float32
    assert shapes["patch_embed.proj"] == Shape(6 * 16, 192, 32, float32, float32, None, False, False, False)
    assert shapes["blocks.0.attn.qkv"] == Shape(6 * 17, 32, 96, float32, float32, None, False, False, False)
    assert shapes["blocks.0.attn.proj"] == Shape(6 * 17, 32, 32, float32, float32, None, True, False, False)
    assert shapes["blocks.1.mlp.fc1"] == Shape(6 * 17, 32, 128, float32, float32, "none", False, True, False)
    assert shapes["head"].rows == 6


def test_what_the_layers_do_is_part_of_the_shape() -> None:
    gm = converted(QuantConfig(LayerSpec(gelu=TwinGELU())), torch.bfloat16)
    shape = linear_shapes(gm, (images().bfloat16(),))["blocks.0.mlp.fc2"]
    assert (shape.float_dtype, shape.dtype) == (torch.bfloat16, torch.bfloat16)
    assert (shape.twin, shape.residual, shape.codes) == (True, True, False)


def test_measuring_leaves_the_graph_as_it_is() -> None:
    gm = converted()
    before = [str(n.meta.get("val")) for n in gm.graph.nodes]
    linear_shapes(gm, (images(9),))
    assert [str(n.meta.get("val")) for n in gm.graph.nodes] == before


def test_names_what_is_not_faster_by_the_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    gm = converted()
    shapes = linear_shapes(gm, (images(),))
    monkeypatch.setattr(choose_triton, "linear_shapes", lambda gm, inputs: shapes)
    monkeypatch.setattr(choose_triton, "measure", lambda shape: (1.0, 1.05 if shape.gelu else 1.019))
    monkeypatch.setattr(choose_triton, "_require_cuda", lambda gm: None)
    found = slower_sites(gm, (images(),))
    assert set(found) == set(shapes) - {"blocks.0.mlp.fc1", "blocks.1.mlp.fc1"}
    assert found["head"] == "int8 does not pay for 4 rows: 1.0000 ms, float32 1.0190 ms"
    assert set(slower_sites(gm, (images(),), margin=1.1)) == set(shapes)
    assert slower_sites(gm, (images(),), margin=1.0) == {}


def test_a_graph_elsewhere_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a graph on a CUDA device, found one on cpu"):
        slower_sites(converted(), (images(),))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_large_layers_pay_on_a_device() -> None:
    layer: nn.Module = nn.Linear(4096, 4096).cuda().bfloat16()
    x = torch.randn(16, 512, 4096, dtype=torch.bfloat16, device="cuda")
    gm = fxquant.convert(fxquant.calibrate(fxquant.prepare(layer.eval(), None, x), [x], progress=False))
    assert slower_sites(gm, (x,)) == {}
