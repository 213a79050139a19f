"""Arguments of the public functions that are of another type than anything that could be meant."""

from __future__ import annotations

import os
from pathlib import Path

from fxquant.errors.exceptions import ConfigError, FxquantError, InputError


def expect_path(value: object, error: type[FxquantError] = InputError) -> Path:
    """Return `value` as a path; raise `error` where it is none."""
    try:
        return Path(os.fsdecode(value))  # type: ignore[arg-type]
    except (TypeError, ValueError) as reason:
        raise error(f"expected the path of a file or folder, found {_shown(value)}") from reason


def expect_whole(name: str, value: object, least: int, most: int = 2**63 - 1) -> None:
    """Raise `ConfigError` where `value` is no whole number from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        bound = f"of at least {least}" if most == 2**63 - 1 else f"from {least} to {most}"
        raise ConfigError(f"{name} must be a whole number {bound}, got {value!r:.100}")


def expect_iterable(value: object, what: str, error: type[FxquantError] = InputError) -> None:
    """Raise `error` where `value` cannot be iterated over."""
    if not hasattr(value, "__iter__") and not hasattr(value, "__getitem__"):
        raise error(f"expected {what}, found {_shown(value)}")


def expect_callable(value: object, what: str) -> None:
    """Raise `InputError` where `value` cannot be called."""
    if not callable(value):
        raise InputError(f"expected {what}, found {_shown(value)}")


def _shown(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}: {value!r:.60}"
