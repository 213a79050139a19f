"""Observers of torch.ao: the range, and all that says how it is coded, are their own."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.ao.quantization as ao
from torch import Tensor, nn

from fxquant import CalibrationError, ConfigError, MinMax, PerChannel, PerHead, PerTensor, RowGroups, TensorSpec
from fxquant.config.torch_ao import TorchAo
from fxquant.numerics.granularity import Granularity

AFFINE, SYMMETRIC = torch.per_channel_affine, torch.per_channel_symmetric
W4 = ao.MinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric, quant_min=-8, quant_max=7)

OBSERVERS: list[tuple[Callable[[], Any], TensorSpec]] = [
    (ao.MinMaxObserver, TensorSpec(8)),
    (ao.HistogramObserver, TensorSpec(8)),
    (ao.HistogramObserver.with_args(reduce_range=True), TensorSpec(7)),
    (ao.HistogramObserver.with_args(bins=64, dtype=torch.qint8), TensorSpec(8, signed=True)),
    (partial(ao.MinMaxObserver, dtype=torch.uint8), TensorSpec(8)),
    (ao.MinMaxObserver.with_args(dtype=torch.int8, reduce_range=True), TensorSpec(7, signed=True)),
    (ao.MinMaxObserver.with_args(dtype=torch.quint4x2), TensorSpec(4)),
    (ao.MinMaxObserver.with_args(qscheme=torch.per_tensor_symmetric), TensorSpec(8)),
    (ao.MinMaxObserver.with_args(qscheme=torch.per_tensor_symmetric, quant_min=0, quant_max=127), TensorSpec(7)),
    (W4, TensorSpec(4, signed=True, symmetric=True)),
    (ao.weight_observer_range_neg_127_to_127, TensorSpec(8, signed=True, symmetric=True, narrow=True)),
    (ao.MovingAverageMinMaxObserver.with_args(averaging_constant=0.3), TensorSpec(8)),
    (ao.MovingAverageMinMaxObserver.with_args(quant_min=0, quant_max=3), TensorSpec(2)),
    (ao.PerChannelMinMaxObserver, TensorSpec(8, granularity=PerChannel(0))),
    (
        ao.PerChannelMinMaxObserver.with_args(ch_axis=-1, dtype=torch.qint8, qscheme=SYMMETRIC),
        TensorSpec(8, signed=True, symmetric=True, granularity=PerChannel(-1)),
    ),
    (ao.MovingAveragePerChannelMinMaxObserver.with_args(ch_axis=1), TensorSpec(8, granularity=PerChannel(1))),
    (ao.FixedQParamsObserver.with_args(scale=1 / 256, zero_point=3), TensorSpec(8)),
    (ao.get_default_qat_qconfig("x86").activation, TensorSpec(7)),
    (ao.default_per_channel_weight_fake_quant, TensorSpec(8, signed=True, symmetric=True, granularity=PerChannel(0))),
]
each_observer = pytest.mark.parametrize(("factory", "expected"), OBSERVERS, ids=[f"{i}" for i in range(len(OBSERVERS))])


def batches() -> list[Tensor]:
    """Return three batches (B, N, C) whose range grows."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 5, 6, generator=generator) * (i + 1) + 0.2 for i in range(3)]


@each_observer
def test_the_spec_is_the_observers_own(factory: Callable[[], Any], expected: TensorSpec) -> None:
    spec = TorchAo(factory).spec()
    assert spec == TensorSpec(
        expected.bits,
        expected.signed,
        expected.symmetric,
        expected.granularity,
        TorchAo(factory),
        narrow=expected.narrow,
    )


@each_observer
def test_scale_and_zero_point_are_those_torch_ao_finds(factory: Callable[[], Any], expected: TensorSpec) -> None:
    spec, theirs = TorchAo(factory).spec(), factory()
    theirs = getattr(theirs, "activation_post_process", theirs)
    ours = spec.build("fc.input")
    for batch in batches():
        assert ours(batch) is batch
        theirs(batch)
    scale, zero_point = theirs.calculate_qparams()
    found = ours.calculate_qparams()
    assert found.axis == spec.granularity.axis
    assert found.scale.dtype is torch.float32
    assert torch.equal(found.scale.reshape(-1), scale)
    if found.zero_point is None:
        assert not zero_point.any()
    else:
        assert found.zero_point.dtype is torch.int32
        assert torch.equal(found.zero_point.reshape(-1), zero_point.int())
    assert found.scale.dim() == (0 if expected.granularity == PerTensor() else 1)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (ao.PlaceholderObserver, "PlaceholderObserver finds no range (its dtype is torch.float32)"),
        (ao.PlaceholderObserver.with_args(dtype=torch.float16), "finds no range (its dtype is torch.float16)"),
        (ao.default_dynamic_quant_observer, "dynamic quantisation finds its ranges at run time"),
        (ao.MovingAverageMinMaxObserver.with_args(averaging_constant=1, is_dynamic=True), "dynamic quantisation"),
        (ao.NoopObserver, "NoopObserver finds no range"),
        (ao.RecordingObserver, "RecordingObserver finds no range"),
        (ao.ReuseInputObserver, "ReuseInputObserver finds no range"),
        (ao.MinMaxObserver.with_args(dtype=torch.qint32), "torch.qint32 is not a dtype of 2 to 8 bits"),
        (ao.MinMaxObserver.with_args(dtype=torch.float8_e4m3fn), "torch.float8_e4m3fn is not a dtype of 2 to 8 bits"),
        (ao.default_float_qparams_observer, "torch.per_channel_affine_float_qparams has no integer zero points"),
        (
            ao.MinMaxObserver.with_args(quant_min=0, quant_max=100),
            "codes from 0 to 100 in torch.quint8 are not those of",
        ),
        (ao.MinMaxObserver.with_args(quant_min=-8, quant_max=7), "codes from -8 to 7 in torch.quint8 are not those of"),
        (
            ao.HistogramObserver.with_args(qscheme=AFFINE),
            "builds no observer: HistogramObserver's qscheme only support",
        ),
        (nn.ReLU, "ReLU is no observer of torch.ao"),
        (int, "int is no observer of torch.ao"),
        (ao.MinMaxObserver(), "expected an observer class or what its with_args(...) returns, got MinMaxObserver("),
        ("histogram", "expected an observer class or what its with_args(...) returns, got 'histogram'"),
    ],
)
def test_observers_without_a_static_range_are_refused(factory: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        TorchAo(factory).spec()
    with pytest.raises(ConfigError, match=re.escape(message)):
        TensorSpec(observer=TorchAo(factory))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 4}, "is for bits=8, but the TensorSpec says bits=4: take TorchAo(...).spec(), or give with_args"),
        (
            {"signed": True, "symmetric": True},
            "is for signed=False, symmetric=False, but the TensorSpec says signed=True",
        ),
        (
            {"granularity": PerChannel(0)},
            "is for granularity=PerTensor(), but the TensorSpec says granularity=PerChannel",
        ),
        ({"granularity": PerHead()}, "is for granularity=PerTensor(), but the TensorSpec says granularity=PerHead()"),
    ],
)
def test_a_spec_that_disagrees_with_its_observer_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        TensorSpec(**arguments, observer=TorchAo(ao.HistogramObserver))


@pytest.mark.parametrize("granularity", [PerHead(), RowGroups(2)], ids=repr)
def test_an_observer_per_channel_serves_heads_and_row_groups(granularity: Granularity) -> None:
    x = torch.randn(4, 4, 3)
    found = []
    for observer in (TorchAo(ao.PerChannelMinMaxObserver.with_args(dtype=torch.qint8, qscheme=SYMMETRIC)), MinMax()):
        module = TensorSpec(8, signed=True, symmetric=True, granularity=granularity, observer=observer).build("x")
        module(x)
        found.append(module.calculate_qparams().scale)
    torch.testing.assert_close(found[0], found[1])


def test_equal_arguments_make_equal_specs() -> None:
    first, second = (ao.HistogramObserver.with_args(bins=512) for _ in range(2))
    assert first != second
    assert TorchAo(first).spec() == TorchAo(second).spec()
    assert len({TorchAo(first), TorchAo(second), TorchAo(ao.HistogramObserver)}) == 2


def test_a_half_calibrated_observer_can_be_saved_copied_and_cast() -> None:
    spec = TorchAo(ao.HistogramObserver).spec()
    first, second = spec.build("fc.input"), spec.build("fc.input")
    with torch.inference_mode():
        first(batches()[0])
    second.load_state_dict(copy.deepcopy(first).bfloat16().state_dict())
    for batch in batches()[1:]:
        first(batch)
        second(batch)
    assert torch.equal(first.calculate_qparams().scale, second.calculate_qparams().scale)


def test_what_an_observer_refuses() -> None:
    observer = TorchAo(ao.HistogramObserver).spec().build("fc.input")
    with pytest.raises(CalibrationError, match=r"'fc\.input' was never calibrated"):
        observer.calculate_qparams()
    with pytest.raises(CalibrationError, match="expected finite values, found infinite ones"):
        observer(torch.tensor([1.0, torch.inf]))
