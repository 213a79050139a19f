"""
Frozen value types (records, specs, granularities, observer options) as JSON and back.

The types are a closed table. A value comes back only where each field has the type its class declares, so that what is read
is what could have been written; the classes check the rest, as they do for any config.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from fxquant.checkpoint import scalars
from fxquant.checkpoint.names import check_text
from fxquant.checkpoint.scalars import Json
from fxquant.config.folds import Reparameterize, Smooth
from fxquant.config.kinds import KINDS, OBSERVERS
from fxquant.config.search import NoisyBias, ScaleSearch
from fxquant.config.weight_fit import WeightFit
from fxquant.data.data_config import DataConfig
from fxquant.errors import CheckpointError
from fxquant.graph.card import MeasuredAccuracy, ModelCard, UsedRecipe
from fxquant.graph.meta import Capture, Operand, Record
from fxquant.numerics.granularity import (
    OutlierTokens,
    PerChannel,
    PerHead,
    PerProjection,
    PerTensor,
    PerToken,
    RowGroups,
)
from fxquant.observers.base import ObserverOptions

_CARDS = (ModelCard, UsedRecipe, MeasuredAccuracy, DataConfig)
_GRANULARITIES = (PerTensor, PerChannel, PerToken, OutlierTokens, PerHead, RowGroups, PerProjection)


def type_named(name: str) -> type | None:
    """Return the type that is stored by this name, None where there is none."""
    stored: tuple[type, ...] = (Record, Operand, Capture, ScaleSearch, NoisyBias, Reparameterize, Smooth, WeightFit)
    stored += (*_CARDS, *_GRANULARITIES, *OBSERVERS, *KINDS)
    return next((cls for cls in stored if cls.__name__ == name), None)


def encode(value: object, converted: bool = False) -> Json:
    """
    Return the JSON form of a value; raise `CheckpointError` where a type in it is not in the table.

    converted: the value belongs to a graph in which nothing observes any more, so that options of an observer outside of the
    table (one of torch.ao) are not needed; plain `ObserverOptions` stand in for them.
    """
    if is_dataclass(value) and not isinstance(value, type):
        name = type(value).__name__
        if type_named(name) is not type(value):
            if converted and isinstance(value, ObserverOptions):
                return {"type": ObserverOptions.__name__}
            hint = "; convert the model first" if isinstance(value, ObserverOptions) else ""
            raise CheckpointError(f"values of type {type(value).__module__}.{name} cannot be stored{hint}")
        return {"type": name} | {f.name: encode(getattr(value, f.name), converted) for f in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [encode(v, converted) for v in value]
    if isinstance(value, float):
        return scalars.encode_float(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    raise CheckpointError(f"values of type {type(value).__name__} cannot be stored: {value!r:.100}")


def decode(data: Json, expected: Any) -> Any:
    """Return the value of the type `expected` that `data` stands for; raise `CheckpointError` where it is none."""
    if get_origin(expected) in (Union, UnionType):
        options = [option for option in get_args(expected) if _could_be(data, option)]
        expected = options[0] if options else expected
    if get_origin(expected) is tuple and isinstance(data, list):
        return _decode_tuple(data, get_args(expected))
    if _could_be(data, expected):
        if isinstance(data, dict):
            return scalars.decode_float(data["float"]) if expected is float else _decode_dataclass(data)
        if expected is str:
            return check_text(data, "text")
        if expected is int:
            return scalars.checked_int(data)
        return expected(data) if issubclass(expected, Enum) else data
    raise CheckpointError(f"expected {getattr(expected, '__name__', expected)}, found {data!r:.100}")


def _could_be(data: Json, expected: Any) -> bool:
    """Say whether `data` has the form of a value of the type `expected`."""
    if get_origin(expected) is tuple:
        return isinstance(data, list)
    if not isinstance(expected, type):
        return False
    if isinstance(data, dict):
        return set(data) == {"float"} if expected is float else issubclass(_type_of(data), expected)
    if issubclass(expected, Enum):
        return any(data == member.value and type(data) is type(member.value) for member in expected)
    if expected is float:
        return type(data) in (int, float)
    return type(data) is expected and expected in (NoneType, bool, int, str)


def _decode_tuple(data: list[Json], items: tuple[Any, ...]) -> tuple[Any, ...]:
    if items[-1] is Ellipsis:
        items = (items[0],) * len(data)
    if len(items) != len(data):
        raise CheckpointError(f"expected {len(items)} values, found {len(data)}")
    return tuple(decode(value, item) for value, item in zip(data, items, strict=True))


def _decode_dataclass(data: dict[str, Json]) -> Any:
    cls = _type_of(data)
    hints = get_type_hints(cls)
    given = {name: value for name, value in data.items() if name != "type"}
    known = {f.name for f in fields(cls)}
    if not given.keys() <= known:
        raise CheckpointError(f"{cls.__name__} has no field {min(given.keys() - known)!r:.100}")
    return cls(**{name: decode(value, hints[name]) for name, value in given.items()})


def _type_of(data: dict[str, Json]) -> type:
    name = data.get("type")
    found = type_named(name) if isinstance(name, str) else None
    if found is None:
        raise CheckpointError(f"unknown type of value {name!r:.100}")
    return found
