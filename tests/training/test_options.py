"""Options of a training: the published defaults, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from fxquant import ConfigError
from fxquant.training import TrainingOptions


def test_defaults_are_those_of_the_published_run() -> None:
    options = TrainingOptions()
    assert (options.epochs, options.batch_size, options.crops) == (150, 512, 4)
    assert (options.lr, options.min_lr, options.warmup_epochs, options.weight_decay) == (5e-4, 0, 0, 1e-4)
    assert options.regulariser
    assert (options.clip_grad, options.ema_decay, options.freeze_threshold, options.budget) == (None,) * 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"batch_size": 2.0}, "batch_size must be a whole number"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": float("nan")}, "lr must be a finite number"),
        ({"lr": None}, "lr must be a finite number"),
        ({"weight_decay": -1.0}, "weight_decay must be a finite number, not negative"),
        ({"betas": (0.9,)}, "betas must be a tuple of two numbers"),
        ({"betas": [0.9, 0.99]}, "betas must be a tuple of two numbers"),
        ({"betas": (0.9, 1.0)}, "betas must be below 1"),
        ({"ema_decay": 1.0}, "ema_decay must be below 1"),
        ({"bits_ratio": 1.5}, "bits_ratio must be at most 1"),
        ({"oscillation_momentum": 0.0}, "oscillation_momentum must be positive"),
        ({"budget": 0.0}, "budget must be positive"),
        ({"regulariser": 1}, "regulariser must be true or false"),
        ({"epochs": 3, "warmup_epochs": 3}, "warmup_epochs must be fewer than the 3 epochs"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingOptions(**given)
