"""OMSE: as published, the same choice as 90 passes over the data, and better over a stream than its last batch alone."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.config.operands import TensorSpec
from fxquant.errors import ConfigError
from fxquant.numerics.codes import Codes
from fxquant.numerics.granularity import PerChannel
from fxquant.observers import OMSE, MinMax, Observer, ObserverOptions
from fxquant.observers.omse import FACTORS, MAX_BINS
from tests.support.observer_parity import (
    assert_as_published,
    batches_of,
    each_bits,
    each_stream,
    fake_quantized,
    observed,
)

DISTRIBUTIONS = ["normal", "heavy", "laplace", "relu", "gelu", "softmax", "shifted", "outliers", "image"]


def draw(kind: str, n: int, seed: int) -> Tensor:
    """Return `n` values with the shape of something a Vision Transformer produces."""
    generator = torch.Generator().manual_seed(seed)
    normal, uniform = torch.randn(n, generator=generator), torch.rand(n, generator=generator)
    samples = {
        "normal": normal,
        "heavy": normal / uniform.clamp(min=1e-3).sqrt(),
        "laplace": normal * uniform.log().neg().sqrt(),
        "relu": normal.relu(),
        "gelu": torch.nn.functional.gelu(2 * normal),
        "softmax": (2 * normal).reshape(-1, 50).softmax(1).flatten(),
        "shifted": 3 + uniform,
        "outliers": torch.where(uniform < 1e-3, 30 * normal, normal),
        "image": ((uniform * 255).round() / 255 - 0.45) / 0.23,
    }
    return samples[kind]


def mean_squared_error(observer: Observer, factor: float, x: Tensor) -> float:
    """Return the error of quantising `x` with the extremes of `observer` times `factor`."""
    minimum, maximum = observer.get_buffer("minimum"), observer.get_buffer("maximum")
    qparams = observer.qparams_for(minimum * factor, maximum * factor)
    return (x - fake_quantized(x, qparams, cast(Codes, observer.spec))).double().square().mean().item()


def chosen_factor(observer: Observer) -> float:
    ends = torch.cat([observer.get_buffer("minimum"), observer.get_buffer("maximum")])
    largest = ends.abs().argmax()
    ratio = (torch.cat(observer.range())[largest] / ends[largest]).item()
    return min(FACTORS, key=lambda factor: abs(factor - ratio))


@each_stream
@each_bits
def test_as_published(stream: str, bits: int) -> None:
    assert_as_published(OMSE(last_batch_only=True), "omse", stream, bits, rtol=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(DISTRIBUTIONS), st.integers(0, 2**16), st.integers(2, 8), st.booleans(), st.booleans())
def test_chooses_as_ninety_passes_would(kind: str, seed: int, bits: int, symmetric: bool, signed: bool) -> None:
    x = draw(kind, 5000, seed)
    observer = observed(OMSE(), torch.split(x, 2000), TensorSpec(bits=bits, signed=signed, symmetric=symmetric))
    errors = [mean_squared_error(observer, factor, x) for factor in FACTORS]
    assert mean_squared_error(observer, chosen_factor(observer), x) <= min(errors) * 1.002


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
@pytest.mark.parametrize("bits", [4, 8])
def test_coarse_bins_choose_well_too(kind: str, bits: int) -> None:
    x = draw(kind, 20_000, seed=0)
    observer = observed(OMSE(bins=2**11), [x], TensorSpec(bits=bits))
    errors = [mean_squared_error(observer, factor, x) for factor in FACTORS]
    assert mean_squared_error(observer, chosen_factor(observer), x) <= min(errors) * 1.01


@each_bits
@pytest.mark.parametrize("stream", ["shrink3d", "drift3d"])
def test_whole_stream_beats_the_last_batch(stream: str, bits: int) -> None:
    batches = batches_of(stream)
    spec, everything = TensorSpec(bits=bits), torch.cat(batches)

    def error(options: ObserverOptions) -> float:
        qparams = observed(options, batches, spec).calculate_qparams()
        return (everything - fake_quantized(everything, qparams, spec)).square().mean().item()

    assert error(OMSE()) < error(OMSE(last_batch_only=True))
    assert error(OMSE()) < error(MinMax())


def test_last_batch_only_forgets_the_batches_but_not_their_range() -> None:
    first, last = draw("normal", 1000, 0) * 3, draw("laplace", 1000, 1)
    published = observed(OMSE(last_batch_only=True), [first, last])
    assert published.get_buffer("histogram")[0].sum() == last.numel()
    assert published.get_buffer("maximum").item() == torch.maximum(first.max(), last.max()).item()


def test_ties_keep_the_widest_range() -> None:
    for value in (0.0, 0.25, -3.0):
        observer = observed(OMSE(), [torch.full((4, 4), value)])
        assert [end.item() for end in observer.range()] == [value, value]


def test_many_rows_share_a_bounded_histogram() -> None:
    observer = observed(OMSE(), [torch.randn(3000, 20)] * 2, TensorSpec(granularity=PerChannel(0)))
    assert 2**19 < observer.get_buffer("histogram")[0].numel() <= MAX_BINS


@pytest.mark.parametrize("bins", [0, 255, 2**20 + 1])
def test_refuses_too_few_or_too_many_bins(bins: int) -> None:
    with pytest.raises(ConfigError, match="bins must lie in"):
        OMSE(bins=bins)
