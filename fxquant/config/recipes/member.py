"""Options of recipes that are a member of an enum, or its value."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

from fxquant.errors import ConfigError

E = TypeVar("E", bound=Enum)


def member(kind: type[E], value: object) -> E:
    """Return the member of an enum, given as itself or by its value."""
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(repr(member.value) for member in kind)
        raise ConfigError(f"expected one of {known} or a member of {kind.__name__}, got {value!r}") from None
