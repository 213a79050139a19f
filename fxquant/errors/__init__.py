"""Errors: each message says what was expected, what was found and what to do."""

from fxquant.errors.exceptions import (
    CalibrationError,
    CheckpointError,
    ConfigError,
    FxquantError,
    InputError,
    PassError,
    TrainingError,
    UnsupportedGraphError,
)
from fxquant.errors.expectations import expect_callable, expect_iterable, expect_path, expect_whole
from fxquant.errors.reasons import reason_of

__all__ = [
    "CalibrationError",
    "CheckpointError",
    "ConfigError",
    "FxquantError",
    "InputError",
    "PassError",
    "TrainingError",
    "UnsupportedGraphError",
    "expect_callable",
    "expect_iterable",
    "expect_path",
    "expect_whole",
    "reason_of",
]
