"""Which axes of the inputs may have any size, and examples of other sizes to capture on and to compare with."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from fxquant.errors import InputError
from fxquant.tracing.proof import accepts

Dynamic = Sequence[str] | Mapping[str, Mapping[int, Any]]
FreeAxes = dict[int, dict[int, Any]]

_NAMED = {"height": -2, "width": -1}
# By how much of its size a first and a second free axis grow, and by how many pixels more. Unequal, as a square may take a
# path of its own through a model, and odd where it takes that, as what fits its windows says nothing of padding.
_GROWTH = ((0.5, 1.0, 1), (0.5, 1.0, 0), (1.0, 0.5, 0), (1.0, 2.0, 0), (0.25, 0.5, 0), (3.0, 1.0, 0))
_NEEDED = 2  # sizes that the model takes beside that of the example


def free_axes(model: nn.Module, dynamic: Dynamic, inputs: tuple[Any, ...]) -> FreeAxes:
    """
    Return what `torch.export` calls the dimension of each free axis, by the position of the argument and of the axis.

    dynamic: of "height" and "width", which are the last two axes of each argument ``(.., C, H, W)``, or for each argument by
    name the axes that are free, with their ``torch.export.Dim``. Raises `InputError` for anything else.
    """
    if not isinstance(dynamic, Mapping):
        unknown = [name for name in dynamic if name not in _NAMED]
        if isinstance(dynamic, str) or unknown:
            raise InputError(
                f"expected dynamic to name 'height', 'width' or both, as in dynamic=('height', 'width'), found {dynamic!r}"
            )
        images = [i for i, v in enumerate(inputs) if isinstance(v, Tensor) and v.dim() >= 4]
        return {i: {inputs[i].dim() + _NAMED[n]: Dim.DYNAMIC for n in dynamic} for i in images} if dynamic else {}
    names = list(inspect.signature(model.forward).parameters)[: len(inputs)]
    found: FreeAxes = {}
    for name, axes in dynamic.items():
        if name not in names or not isinstance(value := inputs[names.index(name)], Tensor):
            raise InputError(f"expected dynamic to name tensors of the example, {', '.join(names)}, found {name!r}")
        if not isinstance(axes, Mapping) or not all(isinstance(a, int) and 0 <= a < value.dim() for a in axes):
            raise InputError(
                f"expected dynamic[{name!r}] to be {{axis: torch.export.Dim}} of {value.dim()} axes, found {axes!r}"
            )
        # The batch is always free. A named Dim has to hold by torch's own reasoning; here several sizes are compared instead.
        found[names.index(name)] = {axis: _hint(dim) for axis, dim in axes.items() if axis}
    return found


def other_sizes(model: nn.Module, inputs: tuple[Any, ...], free: FreeAxes) -> list[tuple[Any, ...]]:
    """
    Return examples in which the free axes have other sizes than in `inputs`, such as `model` takes; none where no axis is free.

    Raises `InputError` where the model takes too few of those tried.
    """
    if not free:
        return []
    tried = [_grown(inputs, free, growth) for growth in _GROWTH]
    taken = [example for example in tried if accepts(model, example)]
    if len(taken) < _NEEDED:
        sizes = ", ".join(str(tuple(example[min(free)].shape)) for example in tried)
        raise InputError(
            f"{type(model).__name__} was to take inputs of any size along {_described(free)}, but of {sizes} it takes "
            f"{len(taken)}: trace it without dynamic, or switch on what its library has for images of any size"
        )
    return taken


def _grown(inputs: tuple[Any, ...], free: FreeAxes, growth: tuple[float, float, int]) -> tuple[Any, ...]:
    values, (*parts, more) = list(inputs), growth
    for index, axes in free.items():
        for axis, part in zip(sorted(axes), parts if len(axes) > 1 else parts[1:], strict=False):
            size = inputs[index].shape[axis]
            wanted = _within(axes[axis], int(size * (1 + part)) + more)
            values[index] = values[index].index_select(axis, torch.arange(wanted, device=values[index].device) % size)
    return tuple(values)


def _within(dim: Any, size: int) -> int:
    """Return `size`, moved into the range of a ``torch.export.Dim``."""
    low, high = getattr(dim, "min", None), getattr(dim, "max", None)
    return int(min(max(size, low if isinstance(low, int) else 1), high if isinstance(high, int) else size))


def _hint(dim: Any) -> Any:
    """Return ``Dim.DYNAMIC`` within the range of `dim`."""
    low, high = getattr(dim, "min", None), getattr(dim, "max", None)
    return Dim.DYNAMIC(
        min=low if isinstance(low, int) else None, max=high if isinstance(high, int) and high < sys.maxsize else None
    )


def _described(free: FreeAxes) -> str:
    return ", ".join(f"axis {axis} of input {index}" for index, axes in free.items() for axis in axes)
