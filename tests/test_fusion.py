"""The contract of fusion, see `tests.support.fusing`, on small models, recipes, dtypes and batch sizes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import LayerSpec, QuantConfig, TwinGELU, pipeline
from fxquant.graph.shapes import propagate_shapes
from fxquant.graph.stages import Stage
from fxquant.kernels import use_backend
from fxquant.observers.base import Observer
from fxquant.ops import (
    attention,
    attention_quantize,
    int8_linear_add,
    int8_linear_gelu_quantize,
    int8_linear_gelu_quantize_twin,
    int8_linear_twin_add,
    layer_norm_quantize,
    layer_norm_quantize_tokens,
    quantize_tokens,
)
from fxquant.passes.fuse_attention import fuse_attention
from tests.support.fusing import check_nodes, prepared_model
from tests.support.models import images, small_swin, small_vit
from tests.support.unfused import unfused

TWIN = QuantConfig(LayerSpec(gelu=TwinGELU()))
MODELS: dict[str, Callable[[], nn.Module]] = {
    "vit": small_vit,
    "swin": small_swin,
    "deit3": lambda: small_vit(init_values=0.5, no_embed_class=True, class_token=True),
}
F32, BF16 = torch.float32, torch.bfloat16
CASES = (
    *((model, "minmax", F32) for model in MODELS),
    *(("vit", "twin", F32), ("vit", "noise", F32), ("vit", "twin", BF16), ("vit", "noise", BF16)),
    *(("deit3", "noise", F32), ("deit3", "minmax", BF16)),
    *(pytest.param(case, marks=pytest.mark.long) for case in (("swin", "noise", BF16), ("swin", "twin", F32))),
)


@dataclass(frozen=True)
class Case:
    """A model on int8, fused and not."""

    model: str
    config: str
    dtype: torch.dtype
    fused: fx.GraphModule
    separate: fx.GraphModule

    def images(self, batch: int) -> Tensor:
        return images(batch, seed=batch).to(self.dtype)

    def reference(self, x: Tensor) -> Tensor:
        """Return what the unfused model gives on torch's own operators."""
        with use_backend("aten"), torch.no_grad():
            return self.separate(x)


@pytest.fixture(scope="module", params=CASES, ids=lambda c: f"{c[0]}-{c[1]}-{str(c[2]).rpartition('.')[2]}")
def case(request: pytest.FixtureRequest) -> Case:
    model, config, dtype = request.param
    gm = prepared_model(MODELS[model](), TWIN if config == "twin" else fxquant.recipe("minmax"), images(4).to(dtype))
    if config == "noise":
        _add_noise(gm)
    result = Case(model, config, dtype, fxquant.convert(gm), unfused(gm))
    names = {n.target for n in result.fused.graph.nodes if n.op == "get_attr"}
    assert any("noise" in name or "noisy" in name for name in names) == (config == "noise")
    return result


def _add_noise(gm: fx.GraphModule) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {n: p for n, p in gm.named_parameters() if p.dim() == 2}
    for observer in gm.modules():
        if isinstance(observer, Observer) and observer.operand.endswith(".input"):
            weight = weights.get(f"{observer.operand.removesuffix('.input')}.weight")
            if weight is not None:
                observer.noise = torch.rand(weight.shape[1], generator=generator) * 0.1


def close(expected: Tensor, found: Tensor, share: float = 0.02) -> bool:
    return bool((expected - found).float().norm() <= share * expected.float().norm())


def test_fused_equals_unfused_on_torchs_operators(case: Case) -> None:
    products = [n for n in case.fused.graph.nodes if n.target is attention_quantize]
    assert len(products) == (4 if case.model == "swin" else 2)
    with use_backend("aten"), torch.no_grad():
        for batch in (1, 3, 5):
            x = case.images(batch)
            found = case.fused(x)
            assert found.dtype is case.dtype
            # The sums of attention come in another order; bfloat16 scores are not rounded any more.
            assert close(case.reference(x), found, 0.01 if case.dtype is F32 else 0.1)


def test_everything_but_attention_is_the_same_bits(case: Case) -> None:
    fused = copy.deepcopy(case.separate)
    propagate_shapes(fused, [case.images(4)])
    fused = pipeline.run(fused, [p for p in pipeline.FUSE if p is not fuse_attention], Stage.LOWERED)
    with use_backend("aten"), torch.no_grad():
        for batch in (1, 3):
            x = case.images(batch)
            assert torch.equal(fused(x), case.reference(x))


def test_node_by_node(case: Case) -> None:
    twin = case.config == "twin"
    expected = {layer_norm_quantize, attention_quantize}
    expected |= {int8_linear_gelu_quantize_twin if twin else int8_linear_gelu_quantize}
    if case.model != "deit3":  # layer scale stands between the product and the residual
        expected |= {int8_linear_twin_add if twin else int8_linear_add}
    assert check_nodes(case.fused, case.images(3)) >= expected


def test_end_to_end_on_the_kernels(case: Case) -> None:
    with torch.no_grad():
        for batch in (1, 3, 5):
            x = case.images(batch)
            assert close(case.reference(x), case.fused(x), 0.02 if case.dtype is F32 else 0.1)


def test_compiled() -> None:
    torch._dynamo.reset()
    gm = prepared_model(small_vit(depth=1), TWIN, images(4).bfloat16())
    fused, x = fxquant.convert(gm), images(3, seed=3).bfloat16()
    with torch.no_grad():
        found = fxquant.compile(fused)(x)
        with use_backend("aten"):
            assert close(unfused(gm)(x), found, 0.1)
        assert close(fused(x), found, 0.02)


@pytest.mark.parametrize(
    ("model", "dtype"),
    [("vit", F32), *(pytest.param(*case, marks=pytest.mark.long) for case in (("vit", BF16), ("swin", F32)))],
)
def test_scales_of_tokens(model: str, dtype: torch.dtype) -> None:
    gm = prepared_model(MODELS[model](), fxquant.recipe("dynamic"), images(4).to(dtype))
    fused, separate = fxquant.convert(gm), unfused(gm)
    targets = {n.target for n in fused.graph.nodes}
    assert {attention, layer_norm_quantize_tokens, quantize_tokens, int8_linear_add} <= targets
    for batch in (1, 3):
        x = images(batch, seed=batch).to(dtype)
        with torch.no_grad(), use_backend("aten"):
            wanted, found = separate(x), fused(x)
        assert close(wanted, found, 0.01 if dtype is F32 else 0.1)
        with torch.no_grad():
            assert close(wanted, fused(x), 0.02 if dtype is F32 else 0.1)


@pytest.mark.long
def test_scales_of_tokens_compiled() -> None:
    torch._dynamo.reset()
    fused, x = (
        fxquant.convert(prepared_model(small_vit(depth=1), fxquant.recipe("dynamic"), images(4))),
        images(3, seed=3),
    )
    with torch.no_grad():
        assert close(fused(x), fxquant.compile(fused)(x), 0.02)
        x[1, 0, 0, 0] = float("nan")
        assert fused(x).isnan().any(1).tolist() == [False, True, False]


def test_the_batch_of_calibration_is_any() -> None:
    """What was calibrated on one image runs on several."""
    data = images(3)
    for make in MODELS.values():
        gm = fxquant.convert(prepared_model(make(), fxquant.recipe("minmax"), data[:1]))
        with torch.no_grad():
            together = gm(data)
            assert together.shape == (3, 10)
            for image, expected in zip(data, together, strict=True):
                assert close(expected, gm(image[None])[0], 1e-5)
