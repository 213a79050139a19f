"""The operands of one call of an operator of fxquant, and what may be asked of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fxquant.errors import CheckpointError
from fxquant.numerics.arithmetic import code_range, storage_offset

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# The ends of the codes of 1 to 8 bits; those of one sign and of twin-uniform codes go without the smallest.
_RANGES = {
    (low + narrow, high)
    for bits in range(1, 9)
    for signed in (False, True)
    for low, high in [code_range(bits, signed)]
    for narrow in ((0, 1) if signed else (0,))
    if low + narrow < high
}


class Operands:
    """
    The arguments of a call by name, tensors among them on the meta device; and the tensors of the file that some of them are.

    An operand whose shape is not known is `unknown`, and fits everywhere. Each method raises `CheckpointError` where an operand
    is not what it is asked to be.
    """

    def __init__(self, given: Mapping[str, Any], constants: Mapping[str, Tensor], unknown: object) -> None:
        self.given, self.constants, self.unknown = given, constants, unknown

    def tensor(self, name: str, *dtypes: torch.dtype, axes: tuple[int, ...] = ()) -> Tensor | None:
        """Return an operand of one of `dtypes` and one of these numbers of axes; None where it is unknown."""
        value = self.given[name]
        if value is self.unknown:
            return None
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{name}: expected a tensor, found {value!r:.100}")
        if dtypes and value.dtype not in dtypes:
            raise CheckpointError(f"{name}: expected {_any_of(dtypes)}, found {value.dtype}")
        if axes and value.dim() not in axes:
            raise CheckpointError(f"{name}: expected {_any_of(axes)} axes, found shape {tuple(value.shape)}")
        return value

    def optional(self, name: str, *dtypes: torch.dtype, axes: tuple[int, ...] = ()) -> Tensor | None:
        """Return `tensor`, or None where the operand is left out."""
        return None if self.given[name] is None else self.tensor(name, *dtypes, axes=axes)

    def shaped(self, name: str, *shapes: tuple[int, ...] | None, dtypes: tuple[torch.dtype, ...] = FLOATS) -> None:
        """Ask for one of `shapes`, if the operand is given; None among them: any shape will do."""
        value = self.optional(name, *dtypes)
        if value is not None and None not in shapes and tuple(value.shape) not in shapes:
            raise CheckpointError(f"{name}: expected shape {_any_of(shapes)}, found {tuple(value.shape)}")

    def positive(self, name: str) -> None:
        """Ask for values above zero and finite, where they are in the file."""
        if name in self.constants and not bool(((self.constants[name] > 0) & self.constants[name].isfinite()).all()):
            raise CheckpointError(f"{name}: expected scales that are positive and finite")

    def finite(self, name: str) -> None:
        """Ask for finite values, where they are in the file."""
        if name in self.constants and not bool(self.constants[name].isfinite().all()):
            raise CheckpointError(f"{name}: expected finite values")

    def number(self, name: str, low: float, high: float) -> float:
        """Return a number from `low` to `high`."""
        value = self.given[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise CheckpointError(f"{name}: expected a number from {low} to {high}, found {value!r:.100}")
        return value

    def pair(self, name: str, low: int) -> tuple[int, int]:
        """Return two whole numbers of at least `low`."""
        value = self.given[name]
        pair = isinstance(value, list | tuple) and len(value) == 2 and all(type(n) is int and n >= low for n in value)
        if not pair:
            raise CheckpointError(f"{name}: expected two numbers of at least {low}, found {value!r:.100}")
        return value[0], value[1]

    def one_of(self, name: str, *choices: Any) -> Any:
        """Return an argument that is one of `choices`."""
        value = self.given[name]
        if not any(value is choice or (isinstance(choice, str) and value == choice) for choice in choices):
            raise CheckpointError(f"{name}: expected {_any_of(choices)}, found {value!r:.100}")
        return value

    def codes_range(self) -> tuple[int, int]:
        """Return the smallest and the largest code."""
        ends = self.given["qmin"], self.given["qmax"]
        if not all(type(end) is int for end in ends) or ends not in _RANGES:
            raise CheckpointError(f"expected the ends of codes of 1 to 8 bits, found {ends!r:.100}")
        return ends

    def stored_codes(self, name: str) -> None:
        """Ask for codes within their range, where they are in the file."""
        low, high = self.codes_range()
        constant = self.constants.get(name)
        if constant is None or constant.numel() == 0:
            return
        offset = storage_offset(high)
        found = [int(end) + offset for end in torch.aminmax(constant)]
        if found[0] < low or found[1] > high:
            raise CheckpointError(f"{name}: expected codes from {low} to {high}, found {found[0]} to {found[1]}")


def sizes(value: Tensor | None) -> tuple[int, ...] | None:
    """Return the shape of an operand, None where it is unknown."""
    return None if value is None else tuple(value.shape)


def volume(shape: tuple[int, ...]) -> int:
    """Return how many values a tensor of `shape` has."""
    return math.prod(shape)


def _any_of(choices: tuple[Any, ...]) -> str:
    return " or ".join(map(str, choices))
