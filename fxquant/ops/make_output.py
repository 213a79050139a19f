"""What a model returns, where that is more than tensors in tuples, lists and dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fxquant.ops.output_class import KINDS, class_named, is_identifier, is_portable, kind_of_output, name_of_class


def make_output(kind: str, name: str, fields: tuple[Any, ...], values: Sequence[Any]) -> Any:
    """
    Return an object of class `name` that holds `values` by the names `fields`: what a model returns, put together.

    kind: one of `fxquant.ops.output_class.KINDS`. Where this process does not have the class, a class with the same fields
    takes its place.
    """
    made = dict(zip(fields, values, strict=True))
    return KINDS[kind].make(class_named(kind, name, fields), made)


def written_output(value: Any, leaf: Callable[[Any], Any], call: Callable[..., Any]) -> Any:
    """
    Return what a graph returns for `value`, what a model returned.

    leaf: called with everything that is no container, in order. call: called with `make_output` and its arguments, in place of
    which it returns a node.
    """
    kind = kind_of_output(type(value))
    if kind is not None:
        items = KINDS[kind].items(value)
        values = tuple(written_output(each, leaf, call) for _, each in items)
        return call(make_output, (kind, name_of_class(type(value)), tuple(name for name, _ in items), values))
    if type(value) is dict:
        return {key: written_output(each, leaf, call) for key, each in value.items()}
    if type(value) in (tuple, list):
        return type(value)(written_output(each, leaf, call) for each in value)
    return leaf(value)


def map_output(value: Any, function: Callable[[Any], Any]) -> Any:
    """Return what a model returned with `function` called on everything that is no container."""
    return written_output(value, function, lambda make, args: make(*args))


def output_leaves(value: Any) -> Iterator[Any]:
    """
    Yield everything in what a model returned that is no container, in order: tensors, numbers and None.

    None in a field of an output of `transformers` is left out there, too.
    """
    kind = kind_of_output(type(value))
    if kind is not None:
        children = [each for _, each in KINDS[kind].items(value) if each is not None or kind != "model_output"]
    elif isinstance(value, dict):
        children = list(value.values())
    elif isinstance(value, tuple | list):
        children = list(value)
    else:
        yield value
        return
    for child in children:
        yield from output_leaves(child)


def output_obstacle(args: Sequence[Any]) -> str | None:
    """Return why `args`, which a file gives, are not arguments of `make_output`; None where they are."""
    kinds = [str, str, tuple, tuple]
    if [type(a) for a in args] != kinds or args[0] not in KINDS or len(args[2]) != len(args[3]):
        return f"expected the kind, class, names and values of an output, found {args!r:.100}"
    kind, name, fields, _ = args
    if not is_portable(name):
        return f"expected a class of a trusted package, or a plain name, found {name!r:.100}"
    if not all(isinstance(f, str) and (kind == "dict" or _is_field(f)) for f in fields) or len(set(fields)) < len(
        fields
    ):
        return f"expected names that differ, found {fields!r:.100}"
    return None


def _is_field(name: str) -> bool:
    return is_identifier(name) and not name.startswith("_")
