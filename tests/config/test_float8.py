"""What a `Float8` may be, and what may have one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fxquant
from fxquant import OMSE, Float8, LayerSpec, LearnedStep, Percentile, PerToken, Placement, TensorSpec
from fxquant.errors import ConfigError


def test_codes_are_those_of_e4m3() -> None:
    spec = Float8()
    assert (spec.dtype, spec.qmin, spec.qmax, spec.bits, spec.even) == ("e4m3", -448, 448, 8, False)
    assert spec != TensorSpec(signed=True, symmetric=True)
    assert torch.equal(spec.quantize(torch.tensor([1.06, 500.0]), torch.tensor(1.0), None), torch.tensor([1.0, 448.0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 4}, "Float8 expected 8 bits, signed=True"),
        ({"symmetric": False}, "got 8 bits, signed=True, symmetric=False"),
        ({"narrow": True}, "narrow=True: use a TensorSpec"),
        ({"observer": LearnedStep()}, r"an observer that finds a range, MinMax\(\), EMA\(\), Percentile\(\), OMSE\(\)"),
        ({"granularity": PerToken(), "observer": OMSE()}, "PerToken takes the whole range of each token"),
    ],
)
def test_what_it_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Float8(**options)


def test_who_may_have_it() -> None:
    assert LayerSpec(Float8(), Float8(), norm=Float8(), gelu=Float8(), gated=Float8()).gelu == Float8()
    with pytest.raises(ConfigError, match=r"LayerSpec\.query must be a TensorSpec or None, got Float8"):
        LayerSpec(query=Float8())
    with pytest.raises(ConfigError, match=r"Placement\.linear must be a TensorSpec or None, got Float8"):
        Placement(linear=Float8())


@pytest.mark.parametrize("observer", [fxquant.MinMax(), fxquant.EMA(), Percentile(), OMSE()])
def test_the_end_of_the_range_is_the_largest_code(observer: Any) -> None:
    found = Float8(observer=observer).build("x")
    found(torch.linspace(-4, 8, 1000))
    scale = float(found.calculate_qparams().scale)
    end = max(-float(found.range()[0]), float(found.range()[1]))
    assert scale == pytest.approx(end / 448)
    assert 0.8 < end <= 8 if isinstance(observer, OMSE) else end > 7
