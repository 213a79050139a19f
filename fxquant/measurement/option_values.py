"""Values as they are written on a command line: numbers within bounds, and NAME=VALUE."""

from __future__ import annotations

import argparse
import math
from typing import Any

_MOST_THREADS = 1024


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def natural(text: str) -> int:
    """Parse a whole number of at least 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected at least 0, got {number}")
    return number


def seed(text: str) -> int:
    """Parse the seed of random numbers, of which NumPy's have the smallest range."""
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"expected 0 to {2**32 - 1}, got {number}")
    return number


def thread_count(text: str) -> int:
    """Parse a number of threads; of more than any machine has, starting them ends the process."""
    number = positive(text)
    if number > _MOST_THREADS:
        raise argparse.ArgumentTypeError(f"expected at most {_MOST_THREADS}, got {number}")
    return number


def percent(text: str) -> float:
    """Parse a number from 0 to 100 and return it as a part of 1."""
    number = float(text)
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError(f"expected 0 to 100 percent, got {text}")
    return number / 100


def accuracy(text: str) -> float:
    """Parse a number of percent above 0 and up to 100."""
    number = float(text)
    if not 0 < number <= 100:
        raise argparse.ArgumentTypeError(f"expected percent, above 0 and up to 100, got {text}")
    return number


def fraction(text: str) -> float:
    """Parse a number above 0 and up to 1."""
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"expected a fraction above 0 and up to 1, such as 0.875, got {text}")
    return number


def gibibytes(text: str) -> int:
    """Parse a positive number of GiB and return it in bytes."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number of GiB, got {text}")
    return int(number * 1024**3)


def recipe_option(text: str) -> tuple[str, Any]:
    """Parse NAME=VALUE; the value is true or false, none, a whole number, a finite number, or else text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, _parse_value(value)


def _parse_value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def format_value(value: Any) -> str:
    """Return `value` as `recipe_option` reads it."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
