"""Which kernels a block of code runs on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from fxquant.errors import ConfigError

BACKENDS = ("auto", "aten")
_chosen: ContextVar[str] = ContextVar("fxquant_backend", default="auto")


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """
    Run the block with the kernels `name`: "auto" for those of the device, "aten" for torch's own operators alone.

    Both compute the same integer sums and agree to float rounding. Raises `ConfigError` for any other name.
    """
    if name not in BACKENDS:
        raise ConfigError(f"unknown backend {name!r}: expected one of {', '.join(map(repr, BACKENDS))}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def chosen_backend() -> str:
    """Return the name that `use_backend` has set."""
    return _chosen.get()
