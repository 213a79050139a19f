"""The contract of lowering, see `tests.support.contract`, over all bits, granularities, dtypes and kinds of products."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxquant
from fxquant import (
    AdaLogGELU,
    AdaLogSoftmax,
    Float8,
    LayerSpec,
    OutlierTokens,
    PerChannel,
    PerHead,
    PerTensor,
    PerToken,
    QuantConfig,
    RowGroups,
    TensorSpec,
    TwinGELU,
    TwinSoftmax,
)
from fxquant.graph.attributes import tensor_of
from fxquant.ops import extract_patches, float8_linear, int8_linear, int8_linear_twin, int8_matmul, int8_matmul_twin
from tests.support.contract import calibrated, sites
from tests.support.models import Shared, images, small_swin, small_vit
from tests.support.tiers import given_examples, keep_quick


@st.composite
def specs(draw: st.DrawFn, granularities: list[Any]) -> TensorSpec:
    """Draw a spec of any number of bits, affine or symmetric; unsigned and symmetric would lose every negative value."""
    signed, symmetric = draw(st.sampled_from([(True, True), (True, False), (False, False)]))
    narrow = signed and draw(st.booleans())
    granularity = draw(st.sampled_from(granularities))
    return TensorSpec(draw(st.integers(2, 8)), signed, symmetric, granularity, narrow=narrow)


layers = st.builds(LayerSpec, specs([PerTensor(), PerChannel(0), RowGroups(3)]), specs([PerTensor()]))
dtypes = st.sampled_from([torch.float32, torch.bfloat16])
contract = settings(suppress_health_check=[HealthCheck.too_slow])


@given_examples(
    quick=20,
    long=60,
    layer=layers,
    dtype=dtypes,
    shape=st.tuples(st.integers(1, 33), *[st.integers(1, 5)] * 2),
    axes=st.integers(2, 4),
    k=st.integers(1, 70),
    o=st.integers(1, 13).map(lambda n: 3 * n),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_linear(
    layer: LayerSpec, dtype: torch.dtype, shape: tuple[int, ...], axes: int, k: int, o: int, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    x = (torch.randn(*shape[: axes - 1], k) * 3 + torch.randn(k)).to(dtype)
    module = nn.Linear(k, o, bias).to(dtype)
    prepared = calibrated(module, QuantConfig(layer), x if x.numel() > 1 else torch.randn(4, *x.shape[1:]).to(dtype))
    found = sites(prepared, x)
    assert len(found) == 1
    for site in found:
        site.check()


@given_examples(
    quick=20,
    long=60,
    layer=layers,
    dtype=dtypes,
    batch=st.integers(1, 4),
    channels=st.integers(1, 4),
    o=st.integers(1, 4).map(lambda n: 3 * n),
    kernel=st.tuples(*[st.integers(1, 4)] * 2),
    stride=st.one_of(st.none(), st.tuples(*[st.integers(1, 3)] * 2)),
    padding=st.tuples(*[st.integers(0, 2)] * 2),
    size=st.tuples(*[st.integers(4, 9)] * 2),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_convolution(
    layer: LayerSpec,
    dtype: torch.dtype,
    batch: int,
    channels: int,
    o: int,
    kernel: tuple[int, int],
    stride: tuple[int, int] | None,
    padding: tuple[int, int],
    size: tuple[int, int],
    bias: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    x = (torch.randn(batch, channels, *size) * 2 + 1).to(dtype)
    module = nn.Conv2d(channels, o, kernel, stride or kernel, padding, bias=bias).to(dtype)
    (site,) = sites(calibrated(module, QuantConfig(layer), x), x)
    assert site.int8.args[0].target is extract_patches  # type: ignore[union-attr]
    site.check()


@settings(contract, max_examples=15)
@given(
    weight=st.builds(
        TensorSpec,
        st.integers(2, 8),
        st.just(True),
        st.just(True),
        st.sampled_from([PerTensor(), PerChannel(0), RowGroups(3)]),
    ),
    activation=specs([PerToken(), OutlierTokens(1), OutlierTokens(9)]),
    dtype=dtypes,
    shape=st.tuples(*[st.integers(1, 9)] * 2),
    axes=st.integers(2, 3),
    k=st.integers(1, 70),
    o=st.integers(1, 13).map(lambda n: 3 * n),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_linear_on_codes_with_a_scale_per_token(
    weight: TensorSpec,
    activation: TensorSpec,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    axes: int,
    k: int,
    o: int,
    bias: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    x = torch.randn(*shape[: axes - 1], k) * 3 + torch.randn(k)
    x = (x * torch.rand(*x.shape[:-1], 1).mul(9).exp()).to(dtype)
    module = nn.Linear(k, o, bias).to(dtype)
    (site,) = sites(
        calibrated(module, QuantConfig(LayerSpec(weight, activation)), torch.randn(3, *x.shape[1:]).to(dtype)), x
    )
    site.check()


bits = st.integers(2, 8)
symmetric = st.builds(
    TensorSpec,
    bits,
    st.just(True),
    st.just(True),
    st.sampled_from([PerTensor(), PerChannel(0), RowGroups(3)]),
    narrow=st.booleans(),
)
twin_gelu = st.builds(TwinGELU, bits, power_of_two=st.booleans(), published=st.booleans())
twin_softmax = st.builds(TwinSoftmax, bits, power_of_two=st.booleans())
behind_gelu = st.one_of(twin_gelu, st.builds(AdaLogGELU, bits))
behind_softmax = st.one_of(twin_softmax, st.builds(AdaLogSoftmax, bits))


class Behind(nn.Module):
    """A layer behind an activation function."""

    def __init__(self, function: Any, layer: nn.Module) -> None:
        super().__init__()
        self.function, self.layer = function, layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.function(x))  # type: ignore[no-any-return]


@given_examples(
    quick=15,
    long=60,
    weight=symmetric,
    gelu=behind_gelu,
    softmax=behind_softmax,
    which=st.sampled_from(["gelu", "softmax"]),
    dtype=dtypes,
    shape=st.tuples(st.integers(1, 20), st.integers(1, 5)),
    k=st.integers(2, 70),
    o=st.integers(1, 13).map(lambda n: 3 * n),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_linear_behind_gelu_or_softmax(
    weight: TensorSpec,
    gelu: Any,
    softmax: Any,
    which: str,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    k: int,
    o: int,
    bias: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    x = (torch.randn(*shape, k) * 3).to(dtype)
    function = nn.GELU() if which == "gelu" else nn.Softmax(-1)
    module = Behind(function, nn.Linear(k, o, bias)).to(dtype)
    (site,) = sites(calibrated(module, QuantConfig(LayerSpec(weight, gelu=gelu, softmax=softmax)), x), x)
    twin = isinstance(gelu if which == "gelu" else softmax, TwinGELU | TwinSoftmax)
    assert site.int8.target is (int8_linear_twin if twin else int8_linear)
    site.check()


@given_examples(
    quick=10,
    long=30,
    weight=symmetric,
    gelu=behind_gelu,
    dtype=dtypes,
    channels=st.integers(1, 4),
    kernel=st.tuples(*[st.integers(1, 4)] * 2),
    padding=st.tuples(*[st.integers(0, 2)] * 2),
    size=st.tuples(*[st.integers(4, 9)] * 2),
    seed=st.integers(0, 2**31),
)
def test_convolution_behind_gelu(
    weight: TensorSpec,
    gelu: Any,
    dtype: torch.dtype,
    channels: int,
    kernel: tuple[int, int],
    padding: tuple[int, int],
    size: tuple[int, int],
    seed: int,
) -> None:
    torch.manual_seed(seed)
    x = (torch.randn(2, channels, *size) * 2).to(dtype)
    module = Behind(nn.GELU(), nn.Conv2d(channels, 6, kernel, 2, padding)).to(dtype)
    (site,) = sites(calibrated(module, QuantConfig(LayerSpec(weight, gelu=gelu)), x), x)
    assert site.int8.target is (int8_linear_twin if isinstance(gelu, TwinGELU) else int8_linear)
    site.check()


class Attention(nn.Module):
    """Attention among ``(B, H, N, 3 D)``, open."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = x.chunk(3, -1)
        return F.softmax(q @ k.mT * 0.5, -1) @ v


heads = specs([PerTensor(), PerHead()])
unsigned = st.builds(TensorSpec, bits, st.just(False), st.just(True), st.sampled_from([PerTensor(), PerHead()]))


@given_examples(
    quick=15,
    long=100,
    layer=st.builds(LayerSpec, query=heads, key=heads, softmax=st.one_of(heads, unsigned, behind_softmax), value=heads),
    dtype=dtypes,
    batch=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    tokens=st.integers(2, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
def test_attention(
    layer: LayerSpec, dtype: torch.dtype, batch: tuple[int, int], tokens: int, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    x = (torch.randn(*batch, tokens, 3 * width) + torch.randn(3 * width)).to(dtype)
    scores, context = sites(calibrated(Attention(), QuantConfig(layer, attention=True), x), x)
    assert scores.int8.target is int8_matmul
    assert context.int8.target is (int8_matmul_twin if isinstance(layer.softmax, TwinSoftmax) else int8_matmul)
    scores.check()
    context.check()


class Gram(nn.Module):
    """A product of two activations that is no attention; the right side is one matrix for all."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x) @ x.flatten(0, -2).mT


@given_examples(
    quick=10,
    long=30,
    spec=specs([PerTensor()]),
    gelu=st.one_of(specs([PerTensor()]), behind_gelu),
    dtype=dtypes,
    shape=st.lists(st.integers(2, 16), min_size=2, max_size=3),
    seed=st.integers(0, 2**31),
)
def test_other_products_of_activations(
    spec: TensorSpec, gelu: Any, dtype: torch.dtype, shape: list[int], seed: int
) -> None:
    torch.manual_seed(seed)
    x = torch.randn(shape).to(dtype)
    (site,) = sites(calibrated(Gram(), QuantConfig(LayerSpec(activation=spec, gelu=gelu), attention=True), x), x)
    assert site.int8.target is (int8_matmul_twin if isinstance(gelu, TwinGELU) else int8_matmul)
    site.check()


class Chain(nn.Module):
    """A stem and layers of odd sizes with everything between them that a site may read."""

    def __init__(self, widths: tuple[int, ...], bias: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, widths[0], 2, 2, bias=bias)
        self.layers = nn.ModuleList(nn.Linear(a, b, bias) for a, b in itertools.pairwise(widths))
        self.norm = nn.LayerNorm(widths[0])

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x).flatten(2).mT)
        for i, layer in enumerate(self.layers):
            y = layer(x)
            x = (F.gelu(y), F.softmax(y, -1), y.relu())[i % 3]
        return x


@given_examples(
    quick=6,
    long=30,
    layer=layers,
    dtype=dtypes,
    widths=st.lists(st.integers(1, 6).map(lambda n: 3 * n), min_size=2, max_size=4),
    batch=st.integers(1, 33),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_chains(layer: LayerSpec, dtype: torch.dtype, widths: list[int], batch: int, bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    model, data = Chain(tuple(widths), bias).to(dtype), [torch.randn(n, 2, 6, 4).to(dtype) for n in (3, batch)]
    found = sites(calibrated(model, QuantConfig(layer), data[0]), data[1])
    assert len(found) == len(widths)
    for site in found:
        site.check()


CASES = itertools.product((small_vit, small_swin), (False, True), ((8, 8), (4, 8), (6, 6)))


@pytest.mark.parametrize(
    ("make", "attention", "w_bits", "a_bits"),
    keep_quick(
        [(make, attention, *bits) for make, attention, bits in CASES],
        *((small_vit, True, 4, 8), (small_vit, False, 8, 8), (small_swin, True, 6, 6)),
    ),
)
def test_small_models(make: Any, attention: bool, w_bits: int, a_bits: int) -> None:
    model = make()
    config = fxquant.recipe("minmax", w_bits=w_bits, a_bits=a_bits, attention=attention)
    prepared = calibrated(model, config, images(4))
    x = images(3, seed=1)
    found = sites(prepared, x)
    expected = sum(isinstance(m, nn.Linear | nn.Conv2d) for m in model.modules())
    if attention:
        expected += 2 * sum(type(m).__name__ in ("Attention", "WindowAttention") for m in model.modules())
    assert len(found) == expected
    for site in found:
        site.check()
    # End to end a code on a rounding boundary may flip and others follow; that stays below what quantising costs.
    with torch.no_grad():
        exact, fake, int8 = model(x), fxquant.convert(prepared, "fake")(x), fxquant.convert(prepared)(x)
    assert (int8 - fake).norm() < 0.5 * (fake - exact).norm()


def test_a_shared_module_is_two_sites() -> None:
    x = torch.randn(4, 20, 8)
    prepared = fxquant.prepare(Shared().eval(), fxquant.recipe("minmax"))
    prepared(x)
    first, second = sites(prepared, x)
    first.check()
    second.check()
    weights = [tensor_of(site.int8.args[1]) for site in (first, second)]
    assert torch.equal(*weights)


PLACEMENTS: list[tuple[str, dict[str, Any]]] = [
    ("fqvit", {"softmax": "uniform"}),
    ("fqvit", {"softmax": "uniform", "softmax_bits": 4, "per_head": True, "power_of_two": False}),
    ("fqvit", {"softmax": "log2", "w_bits": 4}),
    ("fqvit", {"softmax": "log_int", "per_head": True}),
    ("itpn", {"per_head": True}),
    ("psaq", {"w_bits": 4, "a_bits": 6}),
]


@pytest.mark.parametrize(
    ("make", "recipe", "options"),
    keep_quick(
        [(make, *each) for make in (small_vit, small_swin) for each in PLACEMENTS[make is small_swin :]],
        *((small_vit, *each) for each in PLACEMENTS if each[0] != "fqvit"),
        *((small_vit, *PLACEMENTS[1]), (small_vit, *PLACEMENTS[2]), (small_swin, *PLACEMENTS[3])),
    ),
)
def test_placements(make: Any, recipe: str, options: dict[str, Any]) -> None:
    model, x = make(), images(3, seed=1)
    prepared = calibrated(model, fxquant.recipe(recipe, **options), images(4), images(4, seed=2))
    found = sites(prepared, x)
    layers = sum(isinstance(m, nn.Linear | nn.Conv2d) for m in model.modules())
    blocks = sum(type(m).__name__ in ("Attention", "WindowAttention") for m in model.modules())
    if recipe == "itpn":
        # behind norms layers read floats; attention, its projection and the end of the MLP do not
        assert len(found) == 4 * blocks
    else:
        assert len(found) == layers + blocks * (2 if options.get("softmax") == "uniform" else 1)
    for site in found:
        site.check()


e4m3 = st.builds(Float8, granularity=st.sampled_from([PerTensor(), PerChannel(0), RowGroups(3)]))


@settings(contract, max_examples=15)
@given(
    weight=e4m3,
    activation=st.builds(Float8, granularity=st.sampled_from([PerTensor(), PerToken(), OutlierTokens(1)])),
    dtype=dtypes,
    shape=st.tuples(*[st.integers(1, 9)] * 2),
    k=st.integers(1, 70),
    o=st.integers(1, 13).map(lambda n: 3 * n),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_linear_on_float8_codes(
    weight: Float8,
    activation: Float8,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    k: int,
    o: int,
    bias: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    x = (torch.randn(*shape, k) * torch.rand(*shape, 1).mul(9).exp()).to(dtype)
    module = nn.Linear(k, o, bias).to(dtype)
    seen = torch.randn(3, *shape[1:], k).to(dtype)  # what lies beyond is the largest code
    (site,) = sites(calibrated(module, QuantConfig(LayerSpec(weight, activation)), seen), x)
    assert site.int8.target is float8_linear
    site.check()


@settings(contract, max_examples=10)
@given(weight=e4m3, dtype=dtypes, padding=st.integers(0, 2), kernel=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_convolution_on_float8_codes(weight: Float8, dtype: torch.dtype, padding: int, kernel: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = (torch.randn(2, 3, 9, 8) * 2 + 1).to(dtype)
    module = nn.Conv2d(3, 6, kernel, kernel, padding).to(dtype)
    (site,) = sites(calibrated(module, QuantConfig(LayerSpec(weight, Float8())), x), x)
    site.check()
