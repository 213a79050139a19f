"""What a node of a graph stands for in an ONNX file, where that is neither one tensor nor a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from fxquant.numerics import arithmetic


class Name(str):
    """The name of a tensor, where it stands among the arguments of a node."""

    __slots__ = ()


@dataclass(frozen=True)
class BatchSize:
    """A size that is the batch size, `times` over."""

    times: int


@dataclass(frozen=True)
class UnknownSize:
    """A size that changes with the images, and not as the batch size does."""


class StoredWeight(NamedTuple):
    """A weight as int8 codes, with float32 scale and int32 zero point (None for 0), 0-dim or one per index of `axis`."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    axis: int | None
    name: str = ""

    def values(self) -> Tensor:
        """Return the weight as float32."""
        return arithmetic.dequantize(self.codes, self.scale, self.zero_point, self.axis)


class TwinValues(NamedTuple):
    """The values of twin-uniform codes as two tensors, of which each element is 0 in one: names of dequantised values."""

    high: Name
    low: Name


class TokenCodes(NamedTuple):
    """Codes ``(..., C)``, and int32 zero point (None for 0) and float32 scale ``(..., 1)`` of each token: names of tensors."""

    codes: Name
    scale: Name
    zero_point: Name | None


class HeadValues(NamedTuple):
    """Dequantised values with a scale per index of `axis`, ``(H,)``: `steps` are the values in units of that scale."""

    steps: Name
    scale: Tensor
    axis: int


def is_constant(value: Any) -> bool:
    """Say whether an argument is the same in each batch: made of numbers, texts and constant tensors alone."""
    if isinstance(value, Name | TwinValues | TokenCodes | HeadValues | BatchSize | UnknownSize):
        return False
    if isinstance(value, dict):
        return is_constant(tuple(value.values()))
    if isinstance(value, slice):
        return is_constant((value.start, value.stop, value.step))
    return not isinstance(value, tuple | list) or isinstance(value, StoredWeight) or all(map(is_constant, value))
