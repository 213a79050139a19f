"""Bit widths as the command line and the tables write them."""

from __future__ import annotations

import re

from fxquant.errors import ConfigError


def parse_bits(text: str) -> tuple[int, int]:
    """Return the bits of weights and activations that a text such as W4A8 names; raise `ConfigError` for any other."""
    found = re.fullmatch(r"W(\d+)A(\d+)", text)
    if found is None:
        raise ConfigError(f"expected bits such as W8A8 or W4A8, got {text!r}")
    return int(found[1]), int(found[2])
