"""Options of searches: impossible ones, and the factors that are tried."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxquant import ConfigError, Inputs, LayerSpec, Metric, NoisyBias, ScaleSearch, TensorSpec


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "l2"}, "ScaleSearch.metric must be one of Metric.COSINE, Metric.PEARSON, Metric.L1, Metric.L2, "),
        ({"metric": None}, "ScaleSearch.metric must be one of "),
        ({"inputs_from": True}, "ScaleSearch.inputs_from must be one of Inputs.FLOAT, Inputs.QUANTISED, got True"),
        (
            {"gradient": Inputs.FLOAT},
            "ScaleSearch.gradient must be one of Gradient.SAMPLED_OUTPUT, Gradient.SAMPLED_LABEL, Gradient.PREDICTION, got",
        ),
        *(
            ({name: 1}, f"ScaleSearch.{name} must be True or False, got 1")
            for name in ("weights", "inputs", "weight_error", "coarse", "geometric", "correct_bias")
        ),
        *(
            ({name: value}, f"ScaleSearch.{name} must be a whole number of at least 1, got {value!r}")
            for name in ("steps", "rounds", "max_rows")
            for value in (0, -3, 2.0, True, "8")
        ),
        ({"steps": None}, "ScaleSearch.steps must be a whole number of at least 1, got None"),
        ({"smallest": 0.0}, "expected 0 < smallest < largest, got 0.0 and "),
        ({"smallest": -0.5}, "expected 0 < smallest < largest, got -0.5 and "),
        ({"smallest": 1.0, "largest": 1.0}, "expected 0 < smallest < largest, got 1.0 and 1.0"),
        *(
            ({name: value}, f"ScaleSearch.{name} must be a finite number, got {value!r}")
            for name in ("smallest", "largest")
            for value in (float("nan"), float("inf"), "0.5", None, True)
        ),
    ],
)
def test_impossible_searches(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        ScaleSearch(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"noise": "uniform"},
            "NoisyBias.noise must be one of Noise.UNIFORM, Noise.NORMAL, Noise.FITTED, got 'uniform'",
        ),
        ({"noise": None}, "NoisyBias.noise must be one of "),
        *(
            ({name: "yes"}, f"NoisyBias.{name} must be True or False, got 'yes'")
            for name in ("mean", "range", "coarse")
        ),
        *(
            ({name: value}, f"NoisyBias.{name} must be a whole number of at least 1, got {value!r}")
            for name in ("mean_steps", "range_steps")
            for value in (0, 1.5, False, None)
        ),
        ({"mean": False, "range": False}, "NoisyBias needs mean=True or range=True; for neither, leave it out"),
    ],
)
def test_impossible_noises(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        NoisyBias(**arguments)


def test_the_factors_of_a_search() -> None:
    even = ScaleSearch(smallest=0.5, largest=1.5, steps=4, geometric=False)
    assert even.multipliers == (0.5, 0.75, 1.0, 1.25)
    growing = ScaleSearch(smallest=0.25, largest=4.0, steps=4, geometric=True)
    assert growing.multipliers == pytest.approx((0.25, 0.5, 1.0, 2.0))
    assert ScaleSearch(smallest=1, largest=2, steps=1).multipliers == (1,)
    assert {m for m in Metric if ScaleSearch(m).needs_gradient} == {Metric.HESSIAN, Metric.FISHER}
    assert ScaleSearch(max_rows=None).max_rows is None


@given(smallest=st.floats(1e-3, 1), width=st.floats(1e-3, 10), steps=st.integers(1, 200), geometric=st.booleans())
def test_factors_grow_from_the_smallest_and_stay_below_the_largest(
    smallest: float, width: float, steps: int, geometric: bool
) -> None:
    search = ScaleSearch(smallest=smallest, largest=smallest + width, steps=steps, geometric=geometric)
    factors = search.multipliers
    assert len(factors) == steps
    assert factors[0] == smallest
    assert list(factors) == sorted(set(factors))
    assert factors[-1] < search.largest


@given(steps=st.integers(2, 200))
def test_geometric_factors_lie_as_far_apart_below_one_as_above(steps: int) -> None:
    factors = ScaleSearch(smallest=0.01, largest=1.2, steps=steps).multipliers
    ratios = [b / a for a, b in pairwise(factors)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))


def test_only_signed_symmetric_inputs_are_clipped_evenly() -> None:
    with pytest.raises(ConfigError, match="clip_evenly needs a TensorSpec with signed=True, symmetric=True"):
        LayerSpec(search=ScaleSearch(clip_evenly=True))
    LayerSpec(activation=TensorSpec(signed=True, symmetric=True), search=ScaleSearch(clip_evenly=True))
