"""Models with noisy and corrected biases, from end to end: one contract for fake and int8, and all of it in a file."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import LayerSpec, Noise, NoisyBias, PerChannel, PerHead, QuantConfig, ScaleSearch, TensorSpec, TwinGELU
from fxquant.kernels import use_backend
from fxquant.ops import add_noise, denoise_bias, quantize, quantize_twin
from tests.support import contract
from tests.support.checkpoints import assert_same
from tests.support.models import images, small_swin, small_vit
from tests.support.tiers import keep_quick
from tests.support.unfused import lower

HEADS = TensorSpec(6, signed=True, symmetric=True, granularity=PerHead())
LAYER = LayerSpec(
    TensorSpec(5, signed=True, symmetric=True, granularity=PerChannel(0)),
    TensorSpec(6),
    gelu=TwinGELU(6),
    query=HEADS,
    key=HEADS,
    value=HEADS,
    search=ScaleSearch(steps=6, smallest=0.6, rounds=1, correct_bias=True),
    noise=NoisyBias(Noise.NORMAL, mean_steps=8, range_steps=8),
)
MODELS: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: small_vit(depth=1),
    "swin": small_swin,
    "vit_bfloat16": lambda: small_vit(depth=1).bfloat16(),
}
each_model = pytest.mark.parametrize("name", keep_quick(MODELS, "vit", "vit_bfloat16"))
STAGES = ("prepared", "calibrated", "fake", "int8")


def x_of(name: str, seed: int = 0) -> Tensor:
    return images(3, seed).to(torch.bfloat16 if "bfloat16" in name else torch.float32)


@functools.cache
def at_stage(name: str, stage: str) -> fx.GraphModule:
    if stage == "prepared":
        return fxquant.prepare(MODELS[name](), QuantConfig(LAYER, attention=True))
    if stage == "calibrated":
        prepared = fxquant.prepare(MODELS[name](), QuantConfig(LAYER, attention=True))
        return fxquant.calibrate(prepared, [x_of(name), x_of(name, 1)], progress=False)
    return fxquant.convert(at_stage(name, "calibrated"), stage)  # type: ignore[arg-type]


def unfused(name: str) -> fx.GraphModule:
    return lower(at_stage(name, "fake"))


def quantizers(gm: fx.GraphModule) -> list[fx.Node]:
    return [n for n in gm.graph.nodes if n.target in (quantize, quantize_twin)]


def noise_of(node: fx.Node) -> Any:
    """Return the noise that a quantisation adds, None where it adds none."""
    return node.args[6] if len(node.args) > 6 else None


def source_of(node: fx.Node) -> fx.Node:
    """Return what a quantisation reads."""
    (source, *_) = node.args
    assert isinstance(source, fx.Node)
    return source


@each_model
def test_what_is_left_of_the_noise_at_run_time(name: str) -> None:
    fake, int8 = at_stage(name, "fake"), unfused(name)
    counts = {
        target: [sum(n.target is target for n in gm.graph.nodes) for gm in (fake, int8)]
        for target in (add_noise, denoise_bias)
    }
    assert counts[add_noise][0] == counts[denoise_bias][0] >= 5
    assert (counts[add_noise][1], counts[denoise_bias][1]) == (0, 0)
    within = sum(noise_of(n) is not None for n in quantizers(int8))
    behind_norms = sum(source_of(n).target is F.layer_norm for n in quantizers(int8))
    assert within > 0
    assert within < counts[add_noise][0], "behind a norm nothing is left"
    assert behind_norms > 0
    assert fxquant.report(at_stage(name, "int8")).coverage == 1.0


@each_model
def test_fake_and_int8_keep_one_contract(name: str) -> None:
    """Where equal values are quantised, the codes are equal; where equal codes are multiplied, the results agree."""
    fake, int8, x = at_stage(name, "fake"), unfused(name), x_of(name, 5)
    one = contract.Recorder(fake)
    with torch.no_grad():
        one.run(x)
        pairs = list(zip(quantizers(fake), quantizers(int8), strict=True))
        fed = {}
        for simulated, lowered in pairs:
            source: Any = simulated.args[0]
            # What is to be added is added already, unless the quantisation does it.
            fed[lowered.name] = one.env[source.args[0] if noise_of(lowered) is not None else source]
        other = contract.Recorder(int8, fed)
        other.run(x)
    for simulated, lowered in pairs:
        assert torch.equal(one.env[simulated], other.env[lowered]), lowered.name
    products = {contract._label(n): n for n in int8.graph.nodes if n.target in contract.ON_CODES}
    simulated_products = [n for n in fake.graph.nodes if n.target in contract.PRODUCTS]
    assert {contract._label(n) for n in simulated_products} == set(products)
    for node in simulated_products:
        contract.Site(node, products[contract._label(node)], one.env, other.env).check()


@each_model
def test_codes_behind_a_norm_differ_by_rounding_alone(name: str) -> None:
    """There the noise is in the norm's bias, which is added before the result is rounded to float32, not after."""
    fake, int8, x = at_stage(name, "fake"), unfused(name), x_of(name, 5)
    one, other = contract.Recorder(fake), contract.Recorder(int8)
    with torch.no_grad():
        one.run(x)
        other.run(x)
    first = next(
        (a, b)
        for a, b in zip(quantizers(fake), quantizers(int8), strict=True)
        if "norm" in str(b.args[0]) or noise_of(b) is not None
    )
    codes, lowered = (run.env[node].float() for run, node in zip((one, other), first, strict=True))
    assert (codes - lowered).abs().max() <= 1
    assert float((codes != lowered).float().mean()) < 0.01


@each_model
def test_the_whole_model(name: str) -> None:
    x = x_of(name, 5)
    with torch.no_grad():
        fake, int8 = (at_stage(name, target)(x) for target in ("fake", "int8"))
    assert fake.dtype is int8.dtype is x.dtype
    assert (fake.float() - int8.float()).norm() < 0.1 * fake.float().norm()


@each_model
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_saved_and_loaded(name: str, stage: str, tmp_path: Path) -> None:
    gm = at_stage(name, stage)
    fxquant.save(gm, tmp_path / "model.safetensors")
    loaded = fxquant.load(tmp_path / "model.safetensors")
    assert_same(gm, loaded, [x_of(name, 5)] if stage in ("fake", "int8") else [])
    assert str(fxquant.report(loaded)) == str(fxquant.report(gm))
    if stage == "calibrated":
        kept, found = (
            {k: v for k, v in each.named_buffers() if k.rpartition(".")[2] in ("noise", "bias_shift", "found_scale")}
            for each in (gm, loaded)
        )
        assert kept.keys() == found.keys()
        assert sum(v.numel() > 0 for v in kept.values()) > 15
        assert all(torch.equal(value, found[key]) for key, value in kept.items())
        for target in ("fake", "int8"):
            with torch.no_grad():
                one, two = (fxquant.convert(each, target)(x_of(name, 5)) for each in (gm, loaded))  # type: ignore[arg-type]
            assert torch.equal(one, two)
    if stage == "prepared":
        for each in (gm, loaded):
            fxquant.calibrate(each, [x_of(name)], progress=False, seed=7)
        assert_same(gm, loaded)
        at_stage.cache_clear()


def test_an_int8_model_exports() -> None:
    x = x_of("vit", 5)
    exported: Any = torch.export.export(at_stage("vit", "int8"), (x,)).module()
    with torch.no_grad(), use_backend("aten"):  # which is what is exported
        assert torch.equal(exported(x), at_stage("vit", "int8")(x))
