"""The constants of synthesis: the published ones, and those that cannot be meant."""

from __future__ import annotations

from typing import Any

import pytest

from fxquant.errors import ConfigError
from fxquant.synthesis.synthesis_options import SynthesisOptions, make_options


def test_defaults_are_the_published_constants() -> None:
    options = SynthesisOptions()
    assert (options.iterations, options.jitter, options.steps, options.warmup_iterations) == (500, (15, 30), 1000, 100)
    assert (options.betas, options.eps, options.tv_weight, options.ce_weight) == ((0.5, 0.9), 1e-8, 0.05, 1.0)
    assert (options.bandwidth, options.grid_size, options.tv_target) == (0.01, 10, (2500.0, 3000.0))
    assert make_options({"warmup": 0, "iterations": 7}).warmup_iterations == 0
    assert make_options({"iterations": 3}).warmup_iterations == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"iterations": 0}, "iterations must be a whole number of at least 1, got 0"),
        ({"iterations": True}, "iterations"),
        ({"warmup": -1}, "warmup"),
        ({"grid_size": 1}, "grid_size must be a whole number of at least 2"),
        ({"jitter": 15}, "jitter must be a tuple of at least one numbers, got 15"),
        ({"jitter": ()}, "jitter"),
        ({"jitter": (3, -1)}, "jitter"),
        ({"lr": 0}, "lr must be positive"),
        ({"lr": float("nan")}, "lr must be a finite number"),
        ({"bandwidth": "wide"}, "bandwidth must be a finite number"),
        ({"ce_weight": -1.0}, "ce_weight"),
        ({"betas": (0.5, 1.0)}, "betas must be below 1"),
        ({"betas": (0.5,)}, "betas must be a tuple of 2"),
        ({"tv_target": (3.0, 2.0)}, "from low to high"),
        ({"published": 1}, "published must be true or false"),
        ({"mean": (0.5, 0.5, 0.5)}, "belong together"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.0)}, "std must be positive"),
        ({"weight": 1.0}, "unknown option 'weight' of image synthesis: expected one of iterations, jitter"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_options(given)
