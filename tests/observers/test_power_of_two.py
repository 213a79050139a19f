"""PowerOfTwoFactor: as published, never worse than one scale for all, and only for the codes that it can describe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.config.operands import TensorSpec
from fxquant.errors import CalibrationError, ConfigError
from fxquant.numerics.arithmetic import dequantize, quantize
from fxquant.numerics.granularity import PerChannel, PerHead, PerTensor
from fxquant.observers import MinMax, PowerOfTwoFactor
from fxquant.observers.power_of_two import FACTORS, PowerOfTwoFactorObserver
from tests.support.observer_parity import RECORDED, STREAMS, batches_of, each_bits, fake_quantized, observed

TOKENS = [stream for stream in STREAMS if f"{stream}/u8/pts/scale" in RECORDED]


def spec_of(bits: int = 8) -> TensorSpec:
    return TensorSpec(bits, granularity=PerChannel(-1), observer=PowerOfTwoFactor())


def channels(seed: int = 0, spread: float = 8.0) -> Tensor:
    """Return tokens ``(3, 7, 12)`` whose channels differ by up to `spread` in size."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 7, 12, generator=generator) * torch.linspace(1, spread, 12)


@each_bits
@pytest.mark.parametrize("stream", TOKENS)
def test_as_published(stream: str, bits: int) -> None:
    spec, batches, recorded = spec_of(bits), batches_of(stream), f"{stream}/u{bits}/pts"
    observer = observed(PowerOfTwoFactor(), batches, spec)
    qparams = observer.calculate_qparams()
    assert qparams.axis == -1
    torch.testing.assert_close(qparams.scale, RECORDED[f"{recorded}/scale"], rtol=1e-6, atol=0)
    assert qparams.zero_point is not None
    assert set(qparams.zero_point.tolist()) == {RECORDED[f"{recorded}/zero_point"].item()}
    minimum, maximum = observer.range()
    assert minimum.equal(RECORDED[f"{recorded}/min"])
    assert maximum.equal(RECORDED[f"{recorded}/max"])
    if f"{recorded}/codes" in RECORDED:
        codes = quantize(batches[-1], qparams.scale, qparams.zero_point, spec.qmin, spec.qmax, -1)
        assert codes.to(torch.int16).equal(RECORDED[f"{recorded}/codes"])
        dequantized = dequantize(codes, qparams.scale, qparams.zero_point, -1)
        torch.testing.assert_close(dequantized, RECORDED[f"{recorded}/dequant"], rtol=1e-6, atol=0)


def test_every_recorded_stream_of_tokens_is_compared() -> None:
    assert sorted(TOKENS) == [stream for stream in STREAMS if batches_of(stream)[0].dim() == 3]
    assert len(TOKENS) >= 7


@each_bits
def test_channels_of_one_value_keep_it(bits: int) -> None:
    x, spec = batches_of("constant")[0], spec_of(bits)
    qparams = observed(PowerOfTwoFactor(), [x], spec).calculate_qparams()
    torch.testing.assert_close(fake_quantized(x, qparams, spec), x, rtol=1e-5, atol=0)


@settings(max_examples=40)
@given(bits=st.integers(2, 8), spread=st.floats(0.01, 100), shift=st.floats(-5, 5), seed=st.integers(0, 2**16))
def test_a_factor_per_channel_errs_less_than_one_scale(bits: int, spread: float, shift: float, seed: int) -> None:
    x, spec = channels(seed, spread) + shift, spec_of(bits)
    observer = PowerOfTwoFactorObserver(spec, "site")
    observer(x)
    qparams, (scale, zero_point) = observer.calculate_qparams(), observer._shared()
    assert qparams.zero_point is not None
    assert set(qparams.zero_point.tolist()) == {zero_point.item()}
    assert set(observer.exponent.tolist()) <= set(range(FACTORS))
    torch.testing.assert_close(qparams.scale, scale * 2.0 ** (observer.exponent - 3), rtol=0, atol=0)
    shared = dequantize(quantize(x, scale, zero_point, spec.qmin, spec.qmax), scale, zero_point)
    own = fake_quantized(x, qparams, spec)
    for mine, others in zip((own - x).unbind(-1), (shared - x).unbind(-1), strict=True):
        assert mine.double().square().sum() <= others.double().square().sum() * (1 + 1e-5)


def test_small_channels_have_small_scales() -> None:
    x = torch.rand(4, 50, 4) * torch.tensor([1.0, 2.0, 4.0, 8.0])
    assert observed(PowerOfTwoFactor(), [x], spec_of()).get_buffer("exponent").tolist() == [0, 1, 2, 3]


def test_one_scale_is_the_same_as_minmax_where_channels_are_alike() -> None:
    x = torch.linspace(-1, 1, 41).reshape(1, 41, 1).expand(2, 41, 5)
    qparams = observed(PowerOfTwoFactor(), [x], spec_of()).calculate_qparams()
    alone = observed(MinMax(), [x]).calculate_qparams()
    assert qparams.scale.equal(alone.scale.expand(5))
    assert qparams.zero_point is not None
    assert alone.zero_point is not None
    assert qparams.zero_point.equal(alone.zero_point.expand(5))


def test_ranges_are_of_all_batches_and_factors_of_the_latest() -> None:
    loud = torch.rand(2, 5, 3) * 9
    loud[0, 0] = 9.0
    quiet = torch.rand(2, 5, 3) * torch.tensor([1.0, 2.0, 8.0])
    quiet[0, 0] = torch.tensor([1.0, 2.0, 8.0])
    observer = observed(PowerOfTwoFactor(), [loud, quiet], spec_of())
    largest = torch.maximum(loud.amax((0, 1)), quiet.amax((0, 1)))
    assert observer.range()[1].equal(largest)
    assert int(observer.batches) == 2
    assert observer.get_buffer("exponent").tolist() == [0, 1, 3]
    again = observed(PowerOfTwoFactor(), [quiet, loud], spec_of())
    assert again.range()[1].equal(largest)
    assert again.get_buffer("exponent").tolist() == [3, 3, 3]


def test_many_values_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = channels(3, 20.0)
    whole = observed(PowerOfTwoFactor(), [x], spec_of(5))
    monkeypatch.setattr("fxquant.observers.power_of_two.VALUES", 50)
    parts = observed(PowerOfTwoFactor(), [x], spec_of(5))
    assert parts.get_buffer("exponent").equal(whole.get_buffer("exponent"))


@pytest.mark.parametrize("saved_after", [0, 1, 2])
def test_statistics_are_saved_and_go_on(saved_after: int) -> None:
    batches = [channels(seed, 4.0**seed) for seed in range(3)]
    saved = observed(PowerOfTwoFactor(), batches[:saved_after], spec_of())
    loaded = observed(PowerOfTwoFactor(), batches[:1], spec_of())
    assert "exponent" in saved.state_dict()
    loaded.load_state_dict(saved.state_dict())
    for batch in batches[saved_after:]:
        saved(batch)
        loaded(batch)
    for name, value in saved.state_dict().items():
        assert loaded.state_dict()[name].dtype is value.dtype
        assert loaded.state_dict()[name].equal(value)
    assert loaded.calculate_qparams().scale.equal(saved.calculate_qparams().scale)


def test_casting_the_model_keeps_the_exponents() -> None:
    observer = observed(PowerOfTwoFactor(), [channels()], spec_of())
    expected = observer.calculate_qparams().scale
    torch.nn.Sequential(observer).to(torch.bfloat16)
    assert observer.get_buffer("exponent").dtype is torch.int32
    assert observer.calculate_qparams().scale.equal(expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"granularity": PerTensor()},
        {"granularity": PerHead()},
        {"granularity": PerChannel(0)},
        {"granularity": PerChannel(-1), "signed": True},
        {"granularity": PerChannel(-1), "signed": True, "symmetric": True},
        {"granularity": PerChannel(-1), "symmetric": True},
    ],
)
def test_other_codes_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"use it with granularity=PerChannel\(-1\), signed=False and symmetric=False"
    ):
        TensorSpec(observer=PowerOfTwoFactor(), **options)


def test_refuses_what_every_observer_refuses() -> None:
    observer = PowerOfTwoFactor().build(spec_of(), "site")
    with pytest.raises(CalibrationError, match="node 'site' was never calibrated"):
        observer.calculate_qparams()
    with pytest.raises(CalibrationError, match="found NaN"):
        observer(torch.full((2, 3, 4), float("nan")))
    assert not observer.calibrated
