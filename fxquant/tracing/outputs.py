"""What a model returns, as a graph holds it: tensors, and `make_output` where they lie in objects of a class."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.errors import UnsupportedGraphError
from fxquant.ops.make_output import output_leaves, written_output

_LEAVES = (Tensor, fx.Proxy, bool, int, float, complex, str, torch.dtype, torch.device, torch.Size, type(None))


def keep_output_class(tracer: fx.Tracer, forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return `forward` with its output as `tracer` has to see it: what would lose its class is a call of `make_output`."""

    def call(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        return tracer.create_proxy("call_function", function, args, {})

    def run(*args: Any, **kwargs: Any) -> Any:
        return written_output(forward(*args, **kwargs), _checked, call)

    return run


@contextlib.contextmanager
def flat_output(model: nn.Module) -> Iterator[list[Any]]:
    """
    Let `model` return a tuple of all tensors in its output; the list then holds that output.

    So `torch.export` need not know the classes in it.
    """
    outputs: list[Any] = []

    def flatten(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
        outputs[:] = [output]
        return tuple(filter(_is_computed, output_leaves(output)))

    handle = model.register_forward_hook(flatten)
    try:
        yield outputs
    finally:
        handle.remove()


def unflatten_output(graph: fx.Graph, output: Any, nodes: Sequence[Any]) -> Any:
    """Return what `graph` has to return in place of `output`, whose tensors are `nodes` in order."""
    rest = iter(nodes)
    return written_output(
        output, lambda leaf: next(rest) if _is_computed(leaf) else _checked(leaf), graph.call_function
    )


def _checked(leaf: Any) -> Any:
    if isinstance(leaf, _LEAVES):
        return leaf
    raise UnsupportedGraphError(
        f"the model returns a {type(leaf).__module__}.{type(leaf).__qualname__}, which a graph cannot make: return tensors in "
        "tuples, lists, dictionaries, named tuples or dataclasses"
    )


def _is_computed(leaf: Any) -> bool:
    return isinstance(leaf, Tensor | torch.SymInt | torch.SymFloat | torch.SymBool)
