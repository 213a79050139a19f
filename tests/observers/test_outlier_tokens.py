"""Operands that have scales per token where tokens are outliers: what is counted as one, and what follows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxquant
from fxquant import LayerSpec, OutlierTokens, PerTensor, PerToken, QuantConfig, ScaleSearch, TensorSpec
from fxquant.errors import CalibrationError, ConfigError
from fxquant.graph.attributes import called_module
from fxquant.observers import OMSE, MinMax, Observer
from fxquant.observers.outlier_tokens import OutlierTokensObserver
from fxquant.reconstruction.straight_through import has_trainable_scale


def observed(batches: list[Tensor], ratio: float = 3.0, symmetric: bool = False) -> OutlierTokensObserver:
    observer = TensorSpec(8, symmetric, symmetric, OutlierTokens(ratio)).build("site")
    assert isinstance(observer, OutlierTokensObserver)
    for batch in batches:
        observer(batch)
    return observer


@settings(max_examples=25)
@given(symmetric=st.booleans(), count=st.integers(1, 4), tokens=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_the_widest_token_of_all_is_compared_with_the_median_one(
    symmetric: bool, count: int, tokens: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(2, tokens, 5, generator=generator) * (i + 1) + i for i in range(count)]
    widths = [x.abs().amax(-1) if symmetric else x.amax(-1).clamp(min=0) - x.amin(-1).clamp(max=0) for x in batches]
    middle = torch.stack([width.median() for width in widths]).median()
    found = observed(batches, symmetric=symmetric)
    assert found.token_ratio == pytest.approx(float(torch.cat(widths).max() / middle), rel=1e-3)
    assert found.at_run_time == (found.token_ratio > 3)
    plain = TensorSpec(8, symmetric, symmetric).build("site")
    for batch in batches:
        plain(batch)
    assert found.calculate_qparams() == plain.calculate_qparams()


def token(*widths: float) -> Tensor:
    return torch.tensor(widths)[:, None] * torch.tensor([-1.0, 1.0])


@pytest.mark.parametrize(
    ("batches", "ratio"),
    [
        ([token(5)], 1),
        ([torch.randn(7)], 1),  # a single token without an axis of its own
        ([token(2, 2, 2)], 1),
        ([token(0, 0)], 1),
        ([token(1e-30, 0)], 1),
        ([token(1, 1, 4)], 4),
        ([token(1, 1, 0.5)], 1),
        ([token(0, 0, 0, 1, 1, 2)], 2),  # padding does not count
        ([token(0, 0, 0), token(1, 1, 8)], 8),
        ([token(1, 1, 1), token(8, 8, 8), token(1, 1, 1)], 8),
    ],
)
def test_ratios(batches: list[Tensor], ratio: float) -> None:
    assert observed(batches).token_ratio == pytest.approx(ratio, rel=1e-5)


@pytest.mark.parametrize(("ratio", "granularity"), [(4.0, PerTensor()), (3.9, PerToken())])
def test_an_outlier_is_beyond_the_ratio(ratio: float, granularity: object) -> None:
    x = token(1, 1, 4)
    found = observed([x], ratio, symmetric=True)
    assert found.granularity == granularity
    other = TensorSpec(8, True, True, granularity).build("site")  # type: ignore[arg-type]
    other(x)
    x = torch.randn(2, 3, 2)
    assert torch.equal(*(o.fake_quantize(x, o.calculate_qparams()) for o in (found, other)))
    assert has_trainable_scale(found) == (granularity == PerTensor())
    assert found.settle()
    assert not found.settle()
    assert found.spec == other.spec


def test_what_it_refuses() -> None:
    with pytest.raises(CalibrationError, match="'site' was never calibrated"):
        observed([]).calculate_qparams()
    with pytest.raises(CalibrationError, match="expected finite values, found NaN"):
        observed([torch.full((2, 3), float("nan"))])
    with pytest.raises(ConfigError, match="OutlierTokens takes the whole range of each token: use MinMax"):
        TensorSpec(granularity=OutlierTokens(), observer=OMSE())
    assert TensorSpec(granularity=OutlierTokens(), observer=MinMax()).build("site").axis is None


@pytest.mark.parametrize("inputs_from", ["float", "quantised"])
def test_a_search_leaves_what_has_outliers(inputs_from: str) -> None:
    torch.manual_seed(0)
    search = ScaleSearch(inputs_from=fxquant.Inputs(inputs_from), steps=5, rounds=1)
    layer = LayerSpec(activation=TensorSpec(granularity=OutlierTokens()), search=search)
    model, x = nn.Sequential(nn.Linear(6, 6), nn.Sigmoid(), nn.Linear(6, 4)).eval(), torch.randn(1, 20, 6)
    x[:, 3] *= 50
    prepared = fxquant.calibrate(fxquant.prepare(model, QuantConfig(layer), x), [x], progress=False)
    modules = (called_module(node) for node in prepared.graph.nodes)
    found = [m for m in modules if isinstance(m, Observer) and not m.frozen]
    assert [m.at_run_time for m in found] == [True, False]
    assert found[0].calculate_qparams() == found[0].initial_qparams()
    assert found[1].refined
    fake, int8 = (fxquant.convert(prepared, target) for target in ("fake", "int8"))
    torch.testing.assert_close(fake(x), int8(x), rtol=0, atol=1e-5)
