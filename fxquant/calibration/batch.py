"""One calibration batch: what its inputs are, and how a model runs on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from torch import Tensor, fx

from fxquant.distributed import rank, world_size
from fxquant.errors import CalibrationError, FxquantError, InputError
from fxquant.graph.inputs import Arguments, Batch, Bound, moved

T = TypeVar("T")
Inputs = tuple[Tensor, ...]  # those of a graph, in the order in which it takes them


def on_device(prepared: fx.GraphModule, batches: Iterable[Batch]) -> Iterator[Inputs]:
    """Yield the inputs of each batch as `prepared` takes them."""
    like = next((t for t in prepared.parameters() if t.is_floating_point()), None)
    arguments = Arguments.of(prepared)
    for index, batch in enumerate(batches):
        inputs = _named(arguments.tensors, batch, index * world_size() + rank())
        yield inputs if like is None else moved(inputs, like.device, like.dtype)


def varying(shown: Iterable[Inputs]) -> Iterator[Inputs]:
    """
    Yield the batches that are not one value throughout, such as black images, or the last one where there are no others.

    An average would start from them, and what suits the latest batch alone would suit them.
    """
    constant: Inputs | None = None
    found = False
    for inputs in shown:
        if is_constant(inputs):
            constant = inputs
        else:
            found = True
            yield inputs
    if constant is not None and not found:
        yield constant


def is_constant(inputs: Inputs) -> bool:
    """Say whether each input of floating point is one value throughout."""
    values = [t.flatten() for t in inputs if t.is_floating_point() and t.numel() > 1]
    return bool(values) and all(bool((t == t[0]).all()) for t in values)


def arguments_of_batch(model: Callable[..., Any], batch: Batch, index: int) -> Bound:
    """Return the arguments of `model` that batch `index` gives, by name."""
    return _named(Arguments.of(model).bind, batch, index)


def run_batch(prepared: Callable[..., Any], inputs: Inputs, index: int) -> None:
    """Run `prepared` on the inputs of batch `index`; raise `CalibrationError` where it does not take them."""
    try:
        prepared(*inputs)
    except FxquantError:
        raise
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        found = ", ".join(f"shape {tuple(t.shape)} and dtype {t.dtype}" for t in inputs)
        raise CalibrationError(
            f"calibration batch {index}: the model does not accept images of {found}: {error}"
        ) from error


def _named(read: Callable[[Batch], T], batch: Batch, index: int) -> T:
    try:
        return read(batch)
    except InputError as error:
        raise CalibrationError(f"calibration batch {index}: {error}") from error
