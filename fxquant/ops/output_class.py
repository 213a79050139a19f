"""Classes of what models return: their instances taken apart, and put together again."""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Mapping
from keyword import iskeyword
from typing import Any
from weakref import WeakValueDictionary

# Whose classes a file may name. They are used where the process has them already: nothing is imported for a file.
TRUSTED = ("collections", "timm", "torchvision", "transformers")
_TRUSTED_NAME = re.compile(rf"(?:{'|'.join(TRUSTED)})(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_IDENTIFIER = re.compile(r"[A-Za-z_]\w{0,199}", re.ASCII)
_known: WeakValueDictionary[str, type] = WeakValueDictionary()  # of the models that this process has traced


@dataclasses.dataclass(frozen=True)
class OutputKind:
    """
    Classes whose instances hold named values.

    holds: whether a class is of this kind. items: the names and values of an instance. make: an instance of a class with these
    values; no code of its `__init__` runs. stand_in: a class for a name and the names of values, where there is no other.
    """

    holds: Callable[[type], bool]
    items: Callable[[Any], list[tuple[str, Any]]]
    make: Callable[[Any, Mapping[str, Any]], Any]
    stand_in: Callable[[str, tuple[str, ...]], type]


def kind_of_output(cls: type) -> str | None:
    """Return which of `KINDS` a class is of; None for plain tuples, lists and dictionaries, and for all else."""
    return next((name for name, kind in KINDS.items() if kind.holds(cls)), None)


def name_of_class(cls: type) -> str:
    """Return a name by which `class_named` finds `cls` as long as this process has it."""
    name = base = f"{cls.__module__}:{cls.__qualname__}"
    number = 1
    while _known.setdefault(name, cls) is not cls:  # a class that a function defines, made by another call of it
        number += 1
        name = f"{base}#{number}"
    return name


def portable_name(name: str) -> str:
    """Return the name that a file gives a class: all of it if it is of `TRUSTED`, else the last part, for a stand-in."""
    return name if _TRUSTED_NAME.fullmatch(name) else _last_part(name)


def is_portable(name: str) -> bool:
    """Say whether a file may call a class by `name`."""
    return bool(_TRUSTED_NAME.fullmatch(name)) or is_identifier(name)


def is_identifier(name: str) -> bool:
    """Say whether `name` can be that of a class or of a field wherever it stands in code."""
    return bool(_IDENTIFIER.fullmatch(name)) and not iskeyword(name) and not name.startswith("__")


def class_named(kind: str, name: str, fields: tuple[str, ...]) -> type:
    """
    Return the class of this kind that was traced as `name` or that a trusted package has by it, else a stand-in.

    A stand-in has the same fields, and its instances are read as those of the class: by attribute, key or position.
    """
    cls = _known.get(name) or _imported(name)
    if cls is not None and KINDS[kind].holds(cls) and set(fields) <= _fields_of(cls, fields):
        return cls
    return _stand_in(kind, _last_part(name), fields)


def _last_part(name: str) -> str:
    return name.partition("#")[0].rpartition(":")[2].rpartition(".")[2]


def _imported(name: str) -> type | None:
    if not _TRUSTED_NAME.fullmatch(name):
        return None
    module, _, attribute = name.partition(":")
    # By the dictionary of the module: to read an attribute of a lazy package can import one.
    found = vars(sys.modules[module]).get(attribute) if module in sys.modules else None
    return found if isinstance(found, type) else None


def _fields_of(cls: type, asked: tuple[str, ...]) -> set[str]:
    if dataclasses.is_dataclass(cls):
        return {field.name for field in dataclasses.fields(cls)}
    return set(getattr(cls, "_fields", asked))


@functools.cache
def _stand_in(kind: str, name: str, fields: tuple[str, ...]) -> type:
    return KINDS[kind].stand_in(name, fields)


class _Keys(OrderedDict[Any, Any]):
    """Stands for a dictionary, whose values may have been attributes too."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self[name]


class _Record(_Keys):
    """Stands for an output of `transformers`: its values are attributes and have positions, and those left out are None."""

    _names: tuple[str, ...] = ()

    def __getitem__(self, key: Any) -> Any:
        return self.to_tuple()[key] if isinstance(key, int | slice) else super().__getitem__(key)

    def __getattr__(self, name: str) -> Any:
        return self.get(name) if name in self._names else super().__getattr__(name)

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the values in order."""
        return tuple(self.values())


def _is_record(cls: type) -> bool:
    return issubclass(cls, dict) and (dataclasses.is_dataclass(cls) or issubclass(cls, _Record))


def _filled(cls: Any, values: Mapping[str, Any]) -> Any:
    made = cls.__new__(cls)
    for name, value in values.items():
        made[name] = value
    return made


def _filled_but_none(cls: Any, values: Mapping[str, Any]) -> Any:
    return _filled(cls, {name: value for name, value in values.items() if value is not None})


def _with_attributes(cls: Any, values: Mapping[str, Any]) -> Any:
    made = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(made, name, value)  # of a frozen class too
    return made


def _attributes(value: Any) -> list[tuple[str, Any]]:
    names = value._names if isinstance(value, _Record) else [field.name for field in dataclasses.fields(value)]
    return [(name, getattr(value, name)) for name in names]


KINDS: dict[str, OutputKind] = {
    "namedtuple": OutputKind(
        lambda cls: issubclass(cls, tuple) and hasattr(cls, "_fields"),
        lambda value: list(zip(value._fields, value, strict=True)),
        lambda cls, values: tuple.__new__(cls, values.values()),
        lambda name, fields: namedtuple(name, fields),
    ),
    # A ModelOutput of transformers: fields that are None are no keys.
    "model_output": OutputKind(
        _is_record, _attributes, _filled_but_none, lambda name, fields: type(name, (_Record,), {"_names": fields})
    ),
    "dict": OutputKind(
        lambda cls: issubclass(cls, dict) and cls is not dict and not _is_record(cls),
        lambda value: list(value.items()),
        _filled,
        lambda name, fields: type(name, (_Keys,), {}),
    ),
    "dataclass": OutputKind(
        lambda cls: dataclasses.is_dataclass(cls) and not issubclass(cls, dict | tuple | list),
        _attributes,
        _with_attributes,
        lambda name, fields: dataclasses.make_dataclass(name, fields),
    ),
}
