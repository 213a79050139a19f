"""Tracing leaves the model as it was."""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fxquant.errors import UnsupportedGraphError

_CONTAINERS = (dict, OrderedDict, defaultdict, list, set)


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Give each module of `model` its attributes back in the end, and lists, dictionaries and sets what they held."""
    found: dict[int, tuple[Any, Any]] = {}
    for module in model.modules():
        _remember(vars(module), found)
    try:
        yield
    finally:
        for container, saved in found.values():
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(saved)


def _remember(value: Any, found: dict[int, tuple[Any, Any]]) -> None:
    if type(value) not in _CONTAINERS or id(value) in found:
        return
    found[id(value)] = (value, copy.copy(value))
    for inner in value.values() if isinstance(value, dict) else value:
        _remember(inner, found)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """
    Leave `model` as it was: tracing puts constants on it, and runs what its forward does without reading the input.

    What a forward keeps for its next call may be a proxy, which would be of no use to the model.
    """
    random_state = torch.get_rng_state()
    buffers = [(name, b, b._version, b.clone()) for name, b in model.named_buffers() if not b.is_inference()]
    try:
        with attributes_kept(model):
            yield
    finally:
        changed = [
            (name, buffer.copy_(saved)) for name, buffer, version, saved in buffers if buffer._version != version
        ]
        drawn = not torch.equal(random_state, torch.get_rng_state())
        torch.set_rng_state(random_state)
    if changed:
        raise UnsupportedGraphError(
            f"the forward of {type(model).__name__} changes its buffer {changed[0][0]!r}, which a graph of values cannot: "
            "compute the new value without storing it"
        )
    if drawn:
        raise UnsupportedGraphError(
            f"the forward of {type(model).__name__} draws random numbers, which tracing would fix for good: draw them outside"
        )
