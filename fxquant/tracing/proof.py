"""A captured graph is compared with its model before anyone sees it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.errors import InputError, UnsupportedGraphError
from fxquant.graph.dataflow import PRODUCTS
from fxquant.graph.inputs import batch_size, has_batch, holds_tensor
from fxquant.graph.multiply_accumulates import MacCounter
from fxquant.ops.make_output import output_leaves
from fxquant.tracing.untouched import attributes_kept

_BATCHES = (1, 3)  # others than the two images on which torch.export captures
# Largest difference from the model, relative to its largest output, that rounding explains where kernels vary between runs.
_ROUNDING = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclasses.dataclass(frozen=True)
class Proof:
    """
    What the comparison of a graph with its model found.

    difference: in words, None where there is none. missing: the share of the model's multiply-accumulates that no node of the
    graph computes. closed: multiply-accumulates inside Python functions that are single nodes of the graph.
    """

    difference: str | None
    missing: float | None = None
    closed: int = 0


def prove(
    model: nn.Module, gm: fx.GraphModule, example: tuple[Any, ...], others: Sequence[tuple[Any, ...]] = ()
) -> Proof:
    """
    Compare `gm` with `model` on one and on three images made of `example`, or on `example` where the model takes no other.

    others: further examples, of other sizes, to compare on.

    Raises `InputError` where the model does not accept the example, `UnsupportedGraphError` where it gives another result each
    time.
    """
    with kept(model), _slow_attention():
        runs = [(inputs, *found) for inputs in _inputs(example) if (found := _try_model(model, inputs))]
        if not runs:
            runs = [(example, *_run_model(model, example))]
        runs += [(inputs, *_run_model(model, inputs)) for inputs in others]
        missing, closed = None, 0
        for inputs, expected, macs in runs:
            counting = _Counting(gm)
            difference = _difference_of(counting, inputs, expected)
            if difference is not None:
                if _difference(expected, _run_model(model, inputs)[0]) is not None:
                    raise UnsupportedGraphError(
                        "the model gives another result each time it runs on the same images; take what is random out of "
                        "its forward"
                    )
                where = _first_module_that_differs(model, gm, inputs)
                return Proof(f"with {_described(inputs)}, {difference}{where}")
            missing, closed = (macs - counting.total) / macs if macs else None, counting.closed
        return Proof(None, missing, closed)


def accepts(model: nn.Module, inputs: tuple[Any, ...]) -> bool:
    """Say whether `model` runs on `inputs`."""
    with kept(model):
        return _try_model(model, inputs) is not None


def run_once(model: nn.Module, example: tuple[Any, ...]) -> None:
    """Run `model` as it is: it must accept the example, and what a forward keeps from its first call is there afterwards."""
    _run_model(model, example)


def with_batch(inputs: tuple[Any, ...], batch: int) -> tuple[Any, ...]:
    """Return `inputs` with `batch` rows: the first ones, then repeated ones that are scaled, so that no two are equal."""
    present = batch_size(inputs)

    def resize(value: Any) -> Any:
        if not has_batch(value, inputs):
            return value
        rows = torch.arange(batch, device=value.device)
        resized = value.detach()[rows % present]
        if not value.is_floating_point():
            return resized
        scale = 1 - (rows // present).to(value.dtype) / (2 * batch)
        return resized * scale.reshape(-1, *[1] * (value.ndim - 1))

    return tuple(resize(value) for value in inputs)


@contextlib.contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Give `model` its attributes and the values of its buffers back in the end, and torch its random state."""
    # A forward that counts its calls is refused in the end, but it has been called by then.
    saved = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng(devices=[]), attributes_kept(model):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in saved:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


class _Counting(fx.Interpreter):
    """Run a graph; `total` counts its multiply-accumulates, `closed` those inside functions that are written in Python."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.total = self.closed = 0

    def run_node(self, n: fx.Node) -> Any:
        with MacCounter() as counter:
            result = super().run_node(n)
        self.total += counter.total
        if n.target not in PRODUCTS and isinstance(n.target, FunctionType):
            self.closed += counter.total
        return result


def _inputs(example: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if any(isinstance(value, Tensor) and value.ndim for value in example) and batch_size(example):
        yield from (with_batch(example, batch) for batch in _BATCHES)


def _try_model(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[list[Any], int] | None:
    try:
        return _run_model(model, inputs)
    except InputError:  # it takes no other batch size, which is for the example itself to show
        return None


def _run_model(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[list[Any], int]:
    """Return the leaves of what `model` gives on `inputs`, and the multiply-accumulates that it took."""
    try:
        with MacCounter() as counter, torch.no_grad():
            result = model(*_copies(inputs))
        return list(_leaves(result)), counter.total
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} does not accept {_described(inputs)}: {type(error).__name__}: {error}"
        ) from error


def _described(inputs: tuple[Any, ...]) -> str:
    return "an input of shape " + ", ".join(str(tuple(v.shape)) for v in inputs if isinstance(v, Tensor))


def _copies(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    # For a forward that changes its input.
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in inputs)


def _difference_of(counting: _Counting, inputs: tuple[Any, ...], expected: list[Any]) -> str | None:
    try:
        with torch.no_grad():
            found = counting.run(*_copies(tuple(value for value in inputs if holds_tensor(value))))
    except Exception as error:
        return f"the graph stops with {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return _difference(expected, list(_leaves(found)))


def _leaves(value: Any) -> Iterator[Any]:
    return (leaf for leaf in output_leaves(value) if leaf is not None)


def _difference(expected: list[Any], found: list[Any]) -> str | None:
    if len(expected) != len(found):
        return f"the model returns {len(expected)} values and the graph {len(found)}"
    for one, other in zip(expected, found, strict=True):
        if not isinstance(one, Tensor) or not isinstance(other, Tensor):
            if one != other:
                return f"the model returns {one!r} and the graph {other!r}"
        elif one.shape != other.shape or one.dtype != other.dtype:
            return (
                f"the model returns {one.dtype} of shape {tuple(one.shape)} and the graph {other.dtype} of shape "
                f"{tuple(other.shape)}"
            )
        elif not _is_equal(one, other):
            allowed = _ROUNDING.get(one.dtype, 0.0)
            one, other = (t.to(torch.promote_types(t.dtype, torch.float64)) for t in (one, other))
            error = float((one - other).abs().max()) / max(float(one.abs().max()), 1e-30)
            if not error <= allowed:
                return f"outputs differ by {error:.1e} of the largest"
    return None


def _is_equal(one: Tensor, other: Tensor) -> bool:
    return bool(((one == other) | ((one != one) & (other != other))).all())  # NaN equals NaN here


def _first_module_that_differs(model: nn.Module, gm: fx.GraphModule, inputs: tuple[Any, ...]) -> str:
    """Return a phrase that names the first module, in the order in which they finish, whose output no node of `gm` gives."""
    computed: list[Tensor] = []

    class Collecting(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            computed.extend(v.clone() for v in _leaves(result) if isinstance(v, Tensor))
            return result

    finished: list[tuple[str, list[Any]]] = []
    handles = [
        module.register_forward_hook(
            lambda _, __, output, name=name: finished.append((name, [*map(_copied, _leaves(output))]))
        )
        for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            model(*_copies(inputs))
            with contextlib.suppress(Exception):  # what was computed before it stopped is there
                Collecting(gm).run(*_copies(tuple(value for value in inputs if holds_tensor(value))))
    finally:
        for handle in handles:
            handle.remove()
    for name, outputs in finished:
        tensors = [value for value in outputs if isinstance(value, Tensor)]
        if not all(any(_difference([t], [c]) is None for c in computed if c.shape == t.shape) for t in tensors):
            owner = type(model.get_submodule(name)).__name__
            return f"; the first module whose output no node of the graph gives is {name or 'the root'} ({owner})"
    return ""


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


@contextlib.contextmanager
def _slow_attention() -> Iterator[None]:
    # nn.MultiheadAttention has a fused kernel for inference, which no graph can hold.
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
