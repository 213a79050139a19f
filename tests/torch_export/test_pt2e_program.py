"""`export_pt2e` gives a program that computes what the graph does, and that PT2E's backends run on int8."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import ConfigError, InputError, UnsupportedGraphError
from fxquant.benchmark.torch_engine import profile_products
from fxquant.torch_export import standard_quantizers
from tests.support.models import images, small_vit

LINEARS = 9  # of `small_vit`, whose patches are a convolution


class Mlp(nn.Module):
    """A norm and two linear layers over ``(B, 5, 8)``."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, 5, 8)``."""
        y: Tensor = self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))
        return y


@functools.cache
def mlp(target: str = "fake") -> fx.GraphModule:
    prepared = fxquant.prepare(Mlp().eval(), fxquant.recipe("minmax"), torch.randn(4, 5, 8))
    return fxquant.convert(fxquant.calibrate(prepared, [torch.randn(4, 5, 8)], progress=False), target)  # type: ignore[arg-type]


def vit(recipe: str, **options: Any) -> fx.GraphModule:
    return fxquant.quantize(small_vit(), [images()], recipe, target="fake", progress=False, **options)


def operators(program: torch.export.ExportedProgram) -> set[str]:
    return {str(n.target).partition(".")[0] for n in program.graph.nodes if n.op == "call_function"}


@pytest.mark.parametrize("target", ["fake", "int8"])
@pytest.mark.parametrize("activations", [torch.int8, torch.uint8])
def test_computes_what_the_graph_does_with_operators_of_torch_alone(
    activations: torch.dtype, target: str, tmp_path: Path
) -> None:
    torch.export.save(fxquant.export_pt2e(mlp(target), activations), tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2")
    assert operators(program) == {"aten", "quantized_decomposed"}
    for batch in (1, 4, 7):
        x = torch.randn(batch, 5, 8)
        torch.testing.assert_close(program.module()(x), mlp(target)(x), atol=0.02, rtol=0)  # a code may be the next one


@pytest.mark.parametrize("target", ["fake", "int8"])
def test_float8_codes_are_refused_by_name(target: Any) -> None:
    gm = fxquant.quantize(Mlp().eval(), [torch.randn(4, 5, 8)], "minmax", target=target, progress=False, codes="e4m3")
    with pytest.raises(UnsupportedGraphError, match="quantize_float8, in module norm: quantize_float8"):
        fxquant.export_pt2e(gm)


def test_an_image_that_is_not_finite_gives_nan() -> None:
    x = torch.randn(3, 5, 8)
    x[1, 2, 3] = float("inf")
    found = fxquant.export_pt2e(mlp()).module()(x)
    assert torch.isnan(found).flatten(1).all(1).tolist() == [False, True, False]


def test_a_program_of_one_batch_size_has_no_free_axis() -> None:
    program = fxquant.export_pt2e(mlp(), batch=2)
    assert not program.range_constraints
    assert program.module()(torch.randn(2, 5, 8)).shape == (2, 5, 8)


def test_the_graph_stays_as_it_is() -> None:
    before = mlp().print_readable(print_output=False)
    fxquant.export_pt2e(mlp())
    assert mlp().print_readable(print_output=False) == before


def test_refuses_other_graphs_and_dtypes() -> None:
    with pytest.raises(InputError, match="found one at stage float"):
        fxquant.export_pt2e(fxquant.trace(Mlp().eval(), torch.randn(2, 5, 8)))
    with pytest.raises(InputError, match="found Linear"):
        fxquant.export_pt2e(nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=re.escape("torch.int8 or torch.uint8, got torch.int32")):
        fxquant.export_pt2e(mlp(), torch.int32)
    with pytest.raises(ConfigError, match="batch must be a whole number of at least 1"):
        fxquant.export_pt2e(mlp(), batch=0)


def test_a_quantiser_that_nobody_named_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gm = vit("ptq4vit")
    monkeypatch.setattr(standard_quantizers, "_OTHERS", ())
    with pytest.raises(UnsupportedGraphError, match="rounds values, which only the quantisers of PT2E may do"):
        fxquant.export_pt2e(gm)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", ["minmax", "noisyquant", "repq"])
def test_the_lowering_for_x86_runs_every_product_on_int8(recipe: str) -> None:
    pytest.importorskip("torchao")
    import torch._inductor.config as inductor
    from torchao.quantization.pt2e.lowering import lower_pt2e_quantized_to_x86
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer  # noqa: F401  (registers the patterns)

    gm, x = vit(recipe), images()
    lowered = lower_pt2e_quantized_to_x86(fxquant.export_pt2e(gm, torch.uint8, batch=4).module(), (x,))
    torch._dynamo.reset()
    compiled: Any = torch.compile(lowered)
    with torch.no_grad(), inductor.patch(freezing=True):
        found = compiled(x)
        products = profile_products(functools.partial(compiled, x)).products
        expected = gm(x)
    assert products["int8"] == LINEARS + 1
    assert float((found - expected).norm()) <= 0.02 * float(expected.norm())  # a code may be the next one


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_executorch_gives_every_linear_layer_to_the_int8_kernels_of_xnnpack(tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    gm, x = vit("dynamic", patch_embed=False), images()
    lowered = to_edge_transform_and_lower(fxquant.export_pt2e(gm, batch=4), partitioner=[XnnpackPartitioner()])
    module = lowered.exported_program().graph_module
    parts = [getattr(module, name).original_module for name in dir(module) if name.startswith("lowered_module")]
    linears = [n for part in parts for n in part.graph.nodes if "aten.linear" in str(n.target)]
    assert len([n for n in linears if "dequantize_per_token" in str(n.args[0].target)]) == LINEARS
    (tmp_path / "model.pte").write_bytes(lowered.to_executorch().buffer)
    found = Runtime.get().load_program(tmp_path / "model.pte").load_method("forward").execute([x])[0]
    with torch.no_grad():
        expected = gm(x)
    assert float((found - expected).norm()) <= 0.02 * float(expected.norm())
