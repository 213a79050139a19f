"""The weights of a whole model that was pickled, read without its classes."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from fxquant.pickles import Called

_PARTS = ("_parameters", "_buffers", "_modules")
_MOST_MODULES, _DEEPEST = 100_000, 100  # a file may say that a module holds itself, or two of one that holds two, ...


def is_pickled_module(value: object) -> bool:
    """Say whether `value`, of `fxquant.pickles.load_inert`, is what became of a module."""
    return _attributes(value) is not None


def is_pickled_object(value: object) -> bool:
    """Say whether `value` is what became of an object or a call, and holds nothing that could be weights."""
    return isinstance(value, Called) or (isinstance(value, OrderedDict) and not value and bool(vars(value)))


def module_state(module: object) -> dict[str, Tensor]:
    """
    Return the state dict of a module that was read inertly: its parameters and the buffers that it keeps, by their names.

    Raises `pickle.UnpicklingError` where a part of it is no tensor and no module: only its own code could say what it holds.
    """
    state: dict[str, Tensor] = {}
    todo = [("", module)]
    for _ in range(_MOST_MODULES):
        if not todo:
            return state
        prefix, part = todo.pop()
        attributes = _attributes(part)
        if attributes is None or prefix.count(".") > _DEEPEST:
            raise pickle.UnpicklingError(f"{prefix.rstrip('.')} is no module whose tensors can be found")
        state |= {prefix + name: tensor for name, tensor in _own_tensors(attributes)}
        children = [(f"{prefix}{name}.", child) for name, child in attributes["_modules"].items() if child is not None]
        todo += reversed(children)
    raise pickle.UnpicklingError(f"it holds more than {_MOST_MODULES} modules")


def _attributes(value: object) -> dict[str, Any] | None:
    """Return the attributes of a module; those of its one argument for a call, as of `torch.compile` and of `torch.fx`."""
    if isinstance(value, Called):
        found = [own for own in map(_own_attributes, value.args) if own is not None]
        return found[0] if len(found) == 1 else None
    return _own_attributes(value) if isinstance(value, OrderedDict | nn.Module) else None


def _own_attributes(value: object) -> dict[str, Any] | None:
    own = vars(value) if isinstance(value, OrderedDict | nn.Module) else value
    return own if isinstance(own, dict) and all(name in own for name in _PARTS) else None


def _own_tensors(attributes: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    dropped = attributes.get("_non_persistent_buffers_set", ())
    kept = {name: value for name, value in attributes["_buffers"].items() if name not in dropped}
    for name, value in {**attributes["_parameters"], **kept}.items():
        if value is not None and not isinstance(value, Tensor):
            raise pickle.UnpicklingError(f"{name} is no tensor")
        if value is not None:
            yield name, value.detach()
