"""Twin-uniform observers: the initial scales, the split with the least error, refused values, state."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant import CalibrationError, ConfigError, PerTensor, TwinGELU, TwinSoftmax
from fxquant.numerics.arithmetic import GELU_MINIMUM
from fxquant.observers.twin import SAMPLE, TwinGELUObserver, TwinObserver, TwinQParams, TwinSoftmaxObserver
from fxquant.ops import dequantize_twin, fake_quantize_summed_twin, quantize_twin

bits = st.integers(2, 8)


def observed(spec: TwinGELU | TwinSoftmax, *batches: Tensor) -> Any:
    observer = spec.build("site")
    for batch in batches:
        assert observer(batch) is batch
    return observer


def probabilities(*shape: int, spread: float = 3.0, seed: int = 0) -> Tensor:
    return F.softmax(spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed)), -1)


def test_gelu_minimum_is_that_of_gelu() -> None:
    x = torch.linspace(-0.8, -0.7, 100_001, dtype=torch.float64)
    assert float(F.gelu(x).min()) == pytest.approx(GELU_MINIMUM, abs=1e-7)


@pytest.mark.parametrize("twin", [TwinGELU, TwinSoftmax])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 1}, "bits must be an integer from 2 to 8, got 1"),
        ({"bits": 9}, "bits must be an integer from 2 to 8, got 9"),
        ({"bits": 4.0}, "bits must be an integer from 2 to 8, got 4.0"),
        ({"bits": True}, "bits must be an integer from 2 to 8, got True"),
        ({"power_of_two": 1}, ".power_of_two must be True or False, got 1"),
        ({"published": None}, ".published must be True or False, got None"),
    ],
)
def test_impossible_twins(twin: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        twin(**arguments)


@pytest.mark.parametrize("bits", range(2, 9))
def test_twins_have_a_range_of_codes_on_either_side_of_zero(bits: int) -> None:
    largest = 2 ** (bits - 1) - 1
    twins = (TwinGELU(bits), TwinSoftmax(bits), TwinSoftmax(bits, published=True))
    assert {(t.qmin, t.qmax) for t in twins} == {(-largest, largest)}
    assert (TwinGELU(bits, published=True).qmin, TwinGELU(bits, published=True).qmax) == (-largest - 1, largest)
    assert {t.dtype for t in twins} == {f"twin{bits}"}
    assert {t.granularity for t in twins} == {PerTensor()}
    assert (TwinGELU().power_of_two, TwinSoftmax().power_of_two) == (False, True)


@given(b=bits, published=st.booleans(), largest=st.floats(2.0**-13, 2.0**13, width=32))
def test_gelu_scales(b: int, published: bool, largest: float) -> None:
    x = torch.tensor([-0.1, 0.0, largest])
    found = observed(TwinGELU(b, published=published), x, x / 2).calculate_qparams()
    assert float(found.high) == pytest.approx(largest / (2 ** (b - 1) - 0.5), rel=1e-6)
    codes = 2 ** (b - 1) - (0 if published else 1)
    assert float(found.low) == pytest.approx(-GELU_MINIMUM / codes, rel=1e-6)
    assert float(found.split) == 0
    assert {v.dtype for v in (found.high, found.low, found.split)} == {torch.float32}
    assert {v.shape for v in (found.high, found.low, found.split)} == {()}
    assert found.axis is None


@given(b=bits, largest=st.floats(2.0**-13, 2.0**13, width=32))
def test_gelu_scales_a_power_of_two_apart(b: int, largest: float) -> None:
    found = observed(TwinGELU(b, power_of_two=True), torch.tensor([largest])).calculate_qparams()
    free = observed(TwinGELU(b), torch.tensor([largest])).calculate_qparams()
    exponent = math.log2(float(found.high) / float(found.low))
    assert exponent == pytest.approx(round(exponent), abs=1e-4)
    assert 2**-0.5 * 0.999 <= float(found.high) / float(free.high) <= 2**0.5 * 1.001
    assert float(found.low) == float(free.low)


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("x", [torch.zeros(4), torch.full((4,), -0.1)])
def test_gelu_without_a_positive_value_has_a_scale(x: Tensor, power_of_two: bool) -> None:
    found = observed(TwinGELU(power_of_two=power_of_two), x).calculate_qparams()
    assert 0 < float(found.high) < 1e-6
    assert float(found.low) > 0


@settings(max_examples=40)
@given(b=bits, power_of_two=st.booleans(), published=st.booleans(), spread=st.floats(0.1, 20), seed=st.integers(0, 99))
def test_the_split_has_the_least_error(b: int, power_of_two: bool, published: bool, spread: float, seed: int) -> None:
    spec = TwinSoftmax(b, power_of_two, published)
    batches = [probabilities(2, 3, 16, 16, spread=spread, seed=seed + i) for i in range(2)]
    observer = observed(spec, *batches)
    found = observer.calculate_qparams()
    assert float(found.high) == pytest.approx(1 / spec.qmax)
    assert float(found.low) == pytest.approx(-float(found.split) / spec.qmax)
    exponent = -math.log2(float(found.split)) * (1 if power_of_two else 2)
    assert exponent == pytest.approx(round(exponent), abs=1e-5)
    errors = []
    for split in observer.splits(torch.device("cpu")):
        qparams = TwinQParams(found.high, -split / spec.qmax, split)
        fake = torch.cat([observer.fake_quantize(x, qparams) for x in batches])
        errors.append(float((fake.double() - torch.cat(batches).double()).square().sum()))
    assert len(errors) == (20 if power_of_two else 40)
    index = int(observer.splits(torch.device("cpu")).eq(found.split).nonzero())
    assert errors[index] <= min(errors) * (1 + 1e-9)


def test_a_large_batch_is_sampled_evenly() -> None:
    x = probabilities(1, 4, 300, 300)
    assert x.numel() > 2 * SAMPLE
    observer = observed(TwinSoftmax(), x)
    sample = x.flatten()[:: x.numel() // SAMPLE]
    again = observed(TwinSoftmax(), sample)
    assert torch.equal(observer.errors, again.errors)
    assert 0 < sample.numel() < 2 * SAMPLE


@pytest.mark.parametrize("x", [torch.tensor([0.5, -0.1]), torch.tensor([0.5, 1.1])])
def test_softmax_refuses_what_are_no_probabilities(x: Tensor) -> None:
    observer = TwinSoftmax().build("blocks.0.attn.pv.probs")
    with pytest.raises(CalibrationError, match=r"node 'blocks.0.attn.pv.probs', calibration batch 0: expected probab"):
        observer(x)
    assert not observer.calibrated
    assert observer.errors.numel() == 0


@pytest.mark.parametrize("spec", [TwinGELU(), TwinSoftmax()])
def test_refuses_what_every_observer_refuses(spec: Any) -> None:
    observer = spec.build("site")
    with pytest.raises(CalibrationError, match="never calibrated"):
        observer.calculate_qparams()
    with pytest.raises(CalibrationError, match="empty tensor"):
        observer(torch.zeros(0, 3))
    with pytest.raises(CalibrationError, match="found NaN"):
        observer(torch.tensor([0.5, float("nan")]))
    assert not observer.calibrated


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_values_of_half_precision(dtype: torch.dtype) -> None:
    x = probabilities(2, 8, 8).to(dtype)
    assert torch.equal(observed(TwinSoftmax(), x).errors, observed(TwinSoftmax(), x.float()).errors)
    y = F.gelu(torch.randn(50)).to(dtype)
    assert observed(TwinGELU(), y).calculate_qparams() == observed(TwinGELU(), y.float()).calculate_qparams()


SPECS = [
    *(
        TwinGELU(b, power_of_two, published)
        for b in (3, 8)
        for power_of_two in (False, True)
        for published in (False, True)
    ),
    *(TwinSoftmax(b, power_of_two) for b in (3, 8) for power_of_two in (False, True)),
]


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_fakes_what_convert_does(spec: Any) -> None:
    x = F.gelu(torch.randn(200)) if isinstance(spec, TwinGELU) else probabilities(20, 20)
    observer = observed(spec, x)
    q = observer.calculate_qparams()
    arguments = (q.high, q.low, q.split, spec.qmin, spec.qmax)
    assert torch.equal(observer.fake_quantize(x, q), dequantize_twin(quantize_twin(x, *arguments), *arguments))


def test_fakes_the_published_sum() -> None:
    spec, x = TwinSoftmax(6, published=True), probabilities(20, 20)
    observer = observed(spec, x)
    q = observer.calculate_qparams()
    assert torch.equal(observer.fake_quantize(x, q), fake_quantize_summed_twin(x, q.split, 31))


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_what_a_search_finds_takes_over_and_is_saved(spec: Any) -> None:
    x = F.gelu(torch.randn(200)) if isinstance(spec, TwinGELU) else probabilities(20, 20)
    observer: TwinObserver = observed(spec, x)
    assert not observer.refined
    first = observer.calculate_qparams()
    better = observer.scaled(0.5) if isinstance(observer, TwinGELUObserver) else _at(observer, 2.0**-15)
    observer.refine(better)
    assert observer.refined
    for each in (observer, copy.deepcopy(observer), _loaded(observer)):
        assert each.calculate_qparams() == better != first
        assert each.initial_qparams() == first


def _at(observer: TwinObserver, split: float) -> TwinQParams:
    assert isinstance(observer, TwinSoftmaxObserver)
    return observer.at_split(torch.tensor(split))


def _loaded(observer: TwinObserver) -> TwinObserver:
    fresh: Any = observer.spec.build(observer.operand)
    fresh.load_state_dict(observer.state_dict())
    return fresh


@pytest.mark.parametrize("spec", [TwinGELU(), TwinSoftmax()])
def test_casting_does_not_round_the_statistics(spec: Any) -> None:
    observer = observed(spec, probabilities(4, 50))
    before = observer.calculate_qparams()
    assert observer.bfloat16().calculate_qparams() == before
