"""Read NumPy arrays from files of `torch.save` without letting the file decide which functions are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fxquant.pickles import load_pickled, read_as_protocol_2

_KINDS = "biuf"  # bool, integers, floats


class PickledType:
    """Stands in for ``numpy.dtype`` while a file is read. It holds the code of a plain number type and its byte order."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = code
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Store the byte order; refuse compound types."""
        if any(state[2:5]):
            raise ValueError("expected an array of plain numbers, found one of records")
        self.order = state[1]

    def resolve(self) -> np.dtype[Any]:
        """Return NumPy's type; raise `ValueError` where it is not a type of numbers."""
        if self.code[:1] not in _KINDS or not self.code[1:].isdigit() or self.order not in "<>|=":
            raise ValueError(f"expected an array of numbers, found type {self.code!r}")
        return np.dtype(self.order + self.code)


class PickledArray:
    """
    Stands in for ``numpy.ndarray`` while a file is read. Its shape, type and bytes are checked before NumPy gets them.
    """

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Store what the pickle of an array holds."""
        _, self.shape, self.type, self.by_columns, self.data = state

    def resolve(self) -> np.ndarray[Any, Any]:
        """Return the array; raise `ValueError` or `TypeError` where its parts do not fit together."""
        if not isinstance(self.type, PickledType) or not isinstance(self.data, bytes):
            raise ValueError("expected an array of numbers, found one of objects")
        flat = np.frombuffer(self.data, self.type.resolve())
        return flat.reshape(self.shape, order="F" if self.by_columns else "C")


def _reconstruct(kind: object, *_: object) -> PickledArray:
    if kind is not PickledArray:
        raise ValueError("expected an array")
    return PickledArray()


def _from_buffer(data: bytes, kind: object, shape: tuple[int, ...], order: str) -> PickledArray:
    """Stand in for what protocol 5 calls: the same parts in another order."""
    array = PickledArray()
    array.__setstate__((1, shape, kind, order == "F", data))
    return array


def _no_bytes(*given: object) -> bytes:
    if given:
        raise ValueError("expected the bytes of an array")
    return b""


# NumPy 2 calls its module numpy._core, NumPy 1 numpy.core.
_STAND_INS: list[tuple[Any, str]] = [
    (PickledArray, "numpy.ndarray"),
    (PickledType, "numpy.dtype"),
    (_reconstruct, "numpy.core.multiarray._reconstruct"),
    (_reconstruct, "numpy._core.multiarray._reconstruct"),
    (_from_buffer, "numpy.core.numeric._frombuffer"),
    (_from_buffer, "numpy._core.numeric._frombuffer"),
    (_no_bytes, "builtins.bytes"),  # of an empty array
]


def load_arrays(file: Path) -> Any:
    """
    Return what `torch.save` wrote to `file`. Tensors are on the CPU, and NumPy arrays of numbers in a list are arrays
    again.

    Names from NumPy lead to classes of this module, which hold data and call nothing. Raises as `load_pickled` does for any
    other name, and for a damaged file.
    """
    # Read here, so that threads wait for the disk together and for torch one after the other.
    loaded = load_pickled(read_as_protocol_2(file), _STAND_INS)
    if isinstance(loaded, list | tuple):
        return [item.resolve() if isinstance(item, PickledArray) else item for item in loaded]
    return loaded
