"""Python's own arithmetic in a graph: numbers stay as small as sizes, and texts and tuples short."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from fxquant.errors import CheckpointError

BITS = 64  # of a number in a graph
MAX_LENGTH = 2**12  # of what a node computes that is no tensor


def check_call(target: Any, args: Sequence[Any]) -> None:
    """Raise `CheckpointError` where a function of Python would compute without end on these arguments."""
    if target in (operator.mul, operator.mod) and any(isinstance(a, str | tuple | list) for a in args):
        raise CheckpointError("expected numbers or tensors, found a text or a tuple")
    numbers = [a for a in args[:2] if isinstance(a, int)]
    if len(numbers) < 2:
        return
    first, second = numbers
    if target in (operator.pow, pow) and abs(first) > 1 and first.bit_length() * abs(second) > BITS:
        raise CheckpointError(f"{first} to the power of {second} has more than {BITS} bits")
    if target in (operator.lshift, round) and abs(second) > BITS:
        raise CheckpointError(f"a shift of {first} by {second} has more than {BITS} bits")


def check_result(value: Any) -> None:
    """Raise `CheckpointError` where a number, a text or a tuple that a node computed is too large."""
    if isinstance(value, int) and value.bit_length() > BITS:
        raise CheckpointError(f"it computes a number of more than {BITS} bits")
    if isinstance(value, str | tuple | list | dict) and len(value) > MAX_LENGTH:
        raise CheckpointError(f"it computes a {type(value).__name__} of more than {MAX_LENGTH} entries")
