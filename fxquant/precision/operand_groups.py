"""The quantised operands of a prepared graph, one by one or as those that belong together."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from torch import fx

from fxquant.errors import ConfigError, UnsupportedGraphError
from fxquant.graph.attributes import called_module
from fxquant.graph.meta import record_of
from fxquant.observers.base import Observer


class Grouping(str, Enum):
    """Which operands are switched together."""

    OPERAND = "operand"  # each alone, such as blocks.3.mlp.fc2.input
    MODULE = "module"  # all that the products of one module read, such as blocks.3.mlp.fc2
    KIND = "kind"  # the same operand of all blocks, such as blocks.*.mlp.fc2.input


def grouping_of(value: Grouping | str) -> Grouping:
    """Return the grouping that `value` names; raise `ConfigError` for anything else."""
    try:
        return Grouping(value)
    except ValueError:
        known = ", ".join(repr(each.value) for each in Grouping)
        raise ConfigError(f"by must be one of {known}, got {value!r}") from None


@dataclass(frozen=True, eq=False)
class OperandGroup:
    """Operands by one name. codes: how they are quantised, such as "uint6 PerTensor()", each way once."""

    name: str
    observers: frozenset[Observer]
    codes: tuple[str, ...]


def groups_of(prepared: fx.GraphModule, by: Grouping) -> list[OperandGroup]:
    """Return the operands of `prepared`, in the order of the graph; raise `UnsupportedGraphError` where there are none."""
    found: dict[str, list[Observer]] = defaultdict(list)
    for node, observer in observed(prepared):
        found[_name(node, observer, by)].append(observer)
    if not found:
        raise UnsupportedGraphError(
            "expected a model of which anything is quantised: the config leaves all of it float"
        )
    return [
        OperandGroup(name, frozenset(each), tuple(dict.fromkeys(map(_codes, each)))) for name, each in found.items()
    ]


def observed(prepared: fx.GraphModule) -> Iterator[tuple[fx.Node, Observer]]:
    """Yield the calls of observers in the order of the graph."""
    for node in prepared.graph.nodes:
        observer = called_module(node)
        if isinstance(observer, Observer):
            yield node, observer


def kind_of_name(name: str) -> str:
    """Return `name` with a star for each number in its path: what the same part is called in all blocks."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def _name(node: fx.Node, observer: Observer, by: Grouping) -> str:
    if by is Grouping.OPERAND:
        return observer.operand
    if by is Grouping.KIND:
        return kind_of_name(observer.operand)
    record = next((r for r in map(record_of, node.users) if r is not None), None)
    return record.module if record is not None else observer.operand.rpartition(".")[0]


def _codes(observer: Observer) -> str:
    return f"{observer.spec.dtype} {observer.granularity}"
