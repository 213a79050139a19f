"""Bits as people write them."""

from __future__ import annotations

import pytest

from bench.harness.bits import parse_bits
from fxquant.errors import ConfigError


def test_bits_are_read() -> None:
    assert parse_bits("W4A8") == (4, 8)


@pytest.mark.parametrize("text", ["8", "W8", "w8a8", "W8A8 ", "A8W8"])
def test_what_is_no_bits_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected bits such as W8A8 or W4A8"):
        parse_bits(text)
