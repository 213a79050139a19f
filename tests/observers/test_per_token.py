"""Operands whose scales are computed at run time: nothing is kept of what was seen."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import fxquant
from fxquant import LayerSpec, PerToken, QuantConfig, ScaleSearch, TensorSpec
from fxquant.errors import CalibrationError, ConfigError
from fxquant.graph.attributes import called_module
from fxquant.observers import OMSE, Observer
from tests.support.models import small_vit
from tests.support.tiers import keep_quick

AFFINE = TensorSpec(granularity=PerToken())
SYMMETRIC = TensorSpec(signed=True, symmetric=True, granularity=PerToken())


@given(bits=st.integers(2, 8), symmetric=st.booleans(), seed=st.integers(0, 2**31))
def test_each_row_is_rounded_by_its_own_range(bits: int, symmetric: bool, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(3, 5, 7) * torch.rand(3, 5, 1).mul(12).exp()
    observer = TensorSpec(bits, symmetric, symmetric, PerToken()).build("site")
    observer(torch.zeros(1, 7))  # which says nothing of the rows below
    found = observer.fake_quantize(x, observer.calculate_qparams())
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    step = torch.maximum(-low, high) / (2**bits / 2 - 0.5) if symmetric else (high - low) / (2**bits - 1)
    assert bool(((found - x).abs() <= step * (0.5 + 1e-4)).logical_or(found.abs() < x.abs()).all())
    assert bool(((found - x).abs() <= step * (1 + 1e-4)).all())
    assert torch.equal(observer.fake_quantize(x[1, 2], observer.calculate_qparams()), found[1, 2])


def test_it_is_calibrated_once_it_saw_a_batch() -> None:
    observer = AFFINE.build("site")
    with pytest.raises(CalibrationError, match="'site' was never calibrated"):
        observer.calculate_qparams()
    observer(torch.ones(2, 3))
    assert observer.calibrated
    assert observer.calculate_qparams().scale.numel() == 0
    with pytest.raises(CalibrationError, match="expected finite values, found NaN"):
        observer(torch.full((2, 3), float("nan")))


def test_no_observer_can_find_such_a_range_beforehand() -> None:
    with pytest.raises(ConfigError, match="PerToken takes the whole range of each token"):
        TensorSpec(granularity=PerToken(), observer=OMSE())


def _prepared(layer: LayerSpec, x: Tensor) -> torch.fx.GraphModule:
    # The patch embedding is a convolution.
    config = QuantConfig(layer).set_object_type(nn.Conv2d, LayerSpec())
    return fxquant.calibrate(fxquant.prepare(small_vit(), config), [x], progress=False)


@pytest.mark.parametrize("inputs_from", keep_quick(["float", "quantised"], "quantised"))
def test_searches_leave_it_and_read_what_it_gives(inputs_from: str) -> None:
    x = torch.randn(2, 3, 32, 32)
    search = ScaleSearch(inputs_from=fxquant.Inputs(inputs_from), steps=5, rounds=1)
    prepared = _prepared(LayerSpec(activation=AFFINE, search=search), x)
    observers = [m for n in prepared.graph.nodes if isinstance(m := called_module(n), Observer)]
    per_token = [m for m in observers if m.at_run_time]
    assert len(per_token) == 9  # four in each of two blocks, and the head
    assert not any(m.refined for m in per_token)
    assert all(m.refined for m in observers if m.frozen and not m.operand.startswith("patch_embed"))
    fake, int8 = (fxquant.convert(prepared, target) for target in ("fake", "int8"))
    assert torch.allclose(fake(x), int8(x), atol=2e-2)
