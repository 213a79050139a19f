"""What takes the place of classes and functions that a file names. Nothing of it does anything."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any


class Called:
    """What a call in a file would have given. args: of the call. What the file sets afterwards is not kept."""

    def __init__(self, *args: object) -> None:
        self.args = args

    def __setstate__(self, _: object) -> None:
        """Keep nothing."""


class _Inert(type):
    def __call__(cls, *args: object) -> Any:
        """Record a call."""
        return Called(*args)


class StandIn(metaclass=_Inert):
    """
    Stands in for any class and any function.

    A call of it is a `Called`. An object of it, which a file makes by ``__new__``, is an empty `OrderedDict`: the one type
    that torch lets a file give items, as objects of subclasses of dict have them, and attributes, which `vars` returns.
    """

    def __new__(cls, *_: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        """Return an object without items and attributes."""
        return OrderedDict()
