"""The observer of probabilities that become powers of two: it checks them, and there is nothing to search."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.errors import CalibrationError
from fxquant.numerics.arithmetic import dequantize_log2, quantize_log2
from fxquant.numerics.granularity import PerTensor
from fxquant.observers.log2 import Log2, Log2Observer, LogIntSoftmax


def observed(spec: Log2, *batches: Tensor) -> Log2Observer:
    observer = spec.build("blocks.0.attn.probabilities")
    for batch in batches:
        assert observer(batch) is batch
    return observer


def probabilities(seed: int = 0) -> Tensor:
    return F.softmax(3 * torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(seed)), -1)


@pytest.mark.parametrize("spec", [Log2(), LogIntSoftmax(3)])
def test_has_no_scale_to_find(spec: Log2) -> None:
    observer = observed(spec, probabilities(0), probabilities(1))
    qparams = observer.calculate_qparams()
    assert (qparams.scale.item(), qparams.zero_point, qparams.axis) == (1.0, None, None)
    assert int(observer.batches) == 2
    x = probabilities(2)
    assert observer.fake_quantize(x, qparams).equal(dequantize_log2(quantize_log2(x, spec.qmax)))


def test_specs_describe_their_codes() -> None:
    assert [(s.qmin, s.qmax, s.dtype) for s in (Log2(), Log2(7), LogIntSoftmax(2))] == [
        (-1, 15, "log4"),
        (-1, 127, "log7"),
        (-1, 3, "log2"),
    ]
    assert Log2().granularity == PerTensor()
    assert Log2() != LogIntSoftmax()


@pytest.mark.parametrize("x", [torch.tensor([0.5, -0.1]), torch.tensor([0.5, 1.1])])
@pytest.mark.parametrize("before", [0, 1])
def test_refuses_what_are_no_probabilities(x: Tensor, before: int) -> None:
    observer = observed(Log2(), *[probabilities()] * before)
    state = {name: value.clone() for name, value in observer.state_dict().items()}
    where = f"node 'blocks.0.attn.probabilities', calibration batch {before}: expected probabilities"
    with pytest.raises(CalibrationError, match=rf"{where}, found values from .* to .*TensorSpec"):
        observer(x)
    assert int(observer.batches) == before
    assert all(value.equal(state[name]) for name, value in observer.state_dict().items())


def test_rounding_of_a_softmax_in_bfloat16_is_no_error() -> None:
    observed(Log2(), torch.tensor([0.0, 1.0, 1.0005]), probabilities().bfloat16())


def test_refuses_what_every_observer_refuses() -> None:
    observer = Log2().build("site")
    with pytest.raises(CalibrationError, match="never calibrated"):
        observer.calculate_qparams()
    with pytest.raises(CalibrationError, match="empty tensor"):
        observer(torch.zeros(0, 3))
    with pytest.raises(CalibrationError, match="found NaN"):
        observer(torch.tensor([0.5, float("nan")]))
    assert not observer.calibrated


def test_statistics_are_saved() -> None:
    saved, loaded = observed(Log2(), probabilities()), Log2().build("site")
    loaded.load_state_dict(saved.state_dict())
    assert loaded.calibrated
    assert all(loaded.state_dict()[name].equal(value) for name, value in saved.state_dict().items())
