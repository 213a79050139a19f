"""Operators that move, copy and select values."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F

from fxquant.onnx_export.graph_writer import Writer
from fxquant.onnx_export.node_values import BatchSize, HeadValues, Name, TokenCodes, TwinValues

_END = 2**63 - 1


def _reshape(w: Writer, x: Any, *_: Any, **__: Any) -> Name:
    """Reshape to the shape that is known of the result: the batch size follows from that of the input."""
    wanted = w.result_shape
    free = [axis for axis, size in enumerate(wanted) if size is None]
    sizes = [-1 if size is None else size for size in wanted]
    for axis in free[:-1]:  # 0 keeps the size of the input
        if w.shape(x)[: axis + 1] != wanted[: axis + 1]:
            w.refuse("more than one axis of its result changes with the batch")
        sizes[axis] = 0
    return w.add("Reshape", x, w.integers(*sizes))


def _permute(w: Writer, x: Any, *dims: Any) -> Any:
    order = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
    perm = [d % len(order) for d in order]
    if isinstance(x, HeadValues):
        return HeadValues(w.add("Transpose", x.steps, perm=perm), x.scale, perm.index(x.axis))
    return w.add("Transpose", x, perm=perm)


def _transpose(w: Writer, x: Any, dim0: int, dim1: int) -> Any:
    order = list(range(len(w.shape(x))))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return _permute(w, x, order)


def _t(w: Writer, x: Any) -> Any:
    return _transpose(w, x, 0, 1) if len(w.shape(x)) == 2 else w.tensor(x)


def _expand(w: Writer, x: Any, *sizes: Any) -> Name:
    given = sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int | BatchSize) else sizes
    own = w.shape(x)
    own = (1,) * (len(given) - len(own)) + own
    # An axis that keeps its size has 1 here, whatever that is.
    wanted = [1 if size == -1 or (n is None) or size == n else size for size, n in zip(given, own, strict=True)]
    return w.add("Expand", x, w.sizes(wanted))


def _expand_as(w: Writer, x: Any, other: Any) -> Name:
    return w.add("Expand", x, w.add("Shape", other))


def _repeat(w: Writer, x: Any, *repeats: Any) -> Name:
    times = repeats[0] if len(repeats) == 1 and not isinstance(repeats[0], int | BatchSize) else repeats
    if len(times) > len(w.shape(x)):
        x = w.add("Reshape", x, w.integers(*(1,) * (len(times) - len(w.shape(x))), *(n or -1 for n in w.shape(x))))
    return w.add("Tile", x, w.sizes(times))


def _cat(w: Writer, tensors: Sequence[Any], dim: int = 0) -> Name:
    return w.add("Concat", *tensors, axis=dim)


def _stack(w: Writer, tensors: Sequence[Any], dim: int = 0) -> Name:
    axis = w.integers(dim if dim >= 0 else dim + len(w.shape(tensors[0])) + 1)
    return w.add("Concat", *(w.add("Unsqueeze", x, axis) for x in tensors), axis=dim)


def _parts(w: Writer, x: Any, sizes: Sequence[int], dim: int) -> tuple[Name, ...]:
    parts = w.add_several("Split", len(sizes), x, w.integers(*sizes), axis=dim)
    for part, size in zip(parts, sizes, strict=True):
        shape = list(w.shape(x))
        shape[dim] = size
        w.shapes[part], w.dtypes[part] = tuple(shape), w.dtype(x)
    return parts


def _chunk(w: Writer, x: Any, chunks: int, dim: int = 0) -> tuple[Name, ...]:
    count = _known(w, x, dim)
    return _split(w, x, -(-count // chunks), dim)


def _split(w: Writer, x: Any, split_size: int | Sequence[int], dim: int = 0) -> tuple[Name, ...]:
    if isinstance(split_size, int):
        ends = [*range(0, _known(w, x, dim), split_size), _known(w, x, dim)]
        split_size = [end - start for start, end in pairwise(ends)]
    return _parts(w, x, split_size, dim)


def _unbind(w: Writer, x: Any, dim: int = 0) -> tuple[Name, ...]:
    found = []
    shape = w.shape(x)
    for index in range(_known(w, x, dim)):
        part: Name = w.add("Gather", x, w.constant(torch.tensor(index)), axis=dim)
        w.shapes[part], w.dtypes[part] = tuple(n for i, n in enumerate(shape) if i != dim % len(shape)), w.dtype(x)
        found.append(part)
    return tuple(found)


def _known(w: Writer, x: Any, dim: int) -> int:
    size = w.shape(x)[dim]
    return w.refuse("it takes an axis apart whose size changes with the batch") if size is None else size


def _roll(w: Writer, x: Any, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Name:
    if dims is None:
        return w.refuse("a roll without axes")
    pairs = [(shifts, dims)] if isinstance(shifts, int) else list(zip(shifts, dims, strict=True))  # type: ignore[arg-type]
    for shift, dim in pairs:
        cut = -shift % _known(w, x, dim)  # type: ignore[arg-type]
        if cut:
            shape, dtype = w.shape(x), w.dtype(x)
            head, tail = _slice(w, x, dim, 0, cut), _slice(w, x, dim, cut, _END)  # type: ignore[arg-type]
            x = w.add("Concat", tail, head, axis=dim)
            w.shapes[x], w.dtypes[x] = shape, dtype
    return w.tensor(x)


def _slice(w: Writer, x: Any, axis: int, start: int, end: int, step: int = 1) -> Name:
    numbers = (w.integers(n) for n in (start, end, axis, step))
    return w.add("Slice", x, *numbers)


def _flip(w: Writer, x: Any, *dims: Any) -> Name:
    for dim in dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims:
        x = _slice(w, x, dim, -1, -_END, -1)
    return w.tensor(x)


def _narrow(w: Writer, x: Any, dim: int, start: int, length: int) -> Name:
    return _slice(w, x, dim, start, start + length)


def _index_select(w: Writer, x: Any, dim: int, index: Any) -> Name:
    return w.add("Gather", x, index, axis=dim)


def _getitem(w: Writer, x: Any, index: Any) -> Any:
    if isinstance(x, tuple | list) and not isinstance(x, TwinValues | TokenCodes | HeadValues):
        return x[index]
    steps = list(index) if isinstance(index, tuple) else [index]
    rank, used = len(w.shape(x)), sum(step is not None and step is not Ellipsis for step in steps)
    tensors = [step for step in steps if isinstance(step, Name | torch.Tensor)]
    numbers = [step for step in steps if isinstance(step, int)]
    for place in [i for i, step in enumerate(steps) if step is Ellipsis]:
        steps[place : place + 1] = [slice(None)] * (rank - used)
    axis, added = 0, list[int]()  # axis: of what is left of x; added: among the axes of the result
    for step in steps:
        if step is None:
            added.append(axis + len(added))
        elif isinstance(step, slice):
            x, axis = _slice_step(w, x, axis, step), axis + 1
        elif isinstance(step, int) and not isinstance(step, bool):
            x = w.add("Gather", x, w.constant(step), axis=axis)
        elif len(tensors) == 1 and not numbers and w.dtype(step) in (torch.int64, torch.int32):
            x, axis = w.add("Gather", x, step, axis=axis), axis + len(w.shape(step))
        else:
            w.refuse("several indices of which one is a tensor, or one of truth values or of the batch size")
    return w.add("Unsqueeze", x, w.integers(*added)) if added else w.tensor(x)


def _slice_step(w: Writer, x: Any, axis: int, step: slice) -> Any:
    start, end, stride = step.start or 0, _END if step.stop is None else step.stop, step.step or 1
    if not all(isinstance(n, int) for n in (start, end, stride)) or stride < 1:
        w.refuse(f"the slice {step}: only the batch size may be free in the file")
    return x if (start, end, stride) == (0, _END, 1) else _slice(w, x, axis, start, end, stride)


def _pad(w: Writer, x: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Name:
    if not any(pad):
        return w.tensor(x)
    if mode not in ("constant", "reflect", "replicate") or w.of_codes:
        w.refuse(f"padding of {'codes' if w.of_codes else f'mode {mode!r}'}")
    rank = len(w.shape(x))
    before, after = [0] * rank, [0] * rank
    for i, (low, high) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        before[rank - 1 - i], after[rank - 1 - i] = low, high
    fill = () if mode != "constant" else (w.constant(float(value or 0), w.dtype(x)),)
    return w.add("Pad", x, w.integers(*before, *after), *fill, mode="edge" if mode == "replicate" else mode)


def _same(w: Writer, x: Any, *_: Any, **__: Any) -> Any:
    return x


def _to(w: Writer, x: Any, *args: Any, **kwargs: Any) -> Any:
    dtypes = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.dtype)]
    return x if w.of_codes else w.cast(x, dtypes[0]) if dtypes and dtypes[0] is not w.dtype(x) else x


def _cast_to(dtype: torch.dtype) -> Callable[..., Any]:
    return lambda w, x: _to(w, x, dtype)


def _type_as(w: Writer, x: Any, other: Any) -> Any:
    return _to(w, x, w.dtype(other))


def _embedding(w: Writer, indices: Any, weight: Any, *_: Any, **__: Any) -> Name:
    return w.add("Gather", weight, indices, axis=0)


_RESHAPES = ("reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "reshape_as", "view_as")
_METHODS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_RESHAPES, _reshape),
    **{"permute": _permute, "transpose": _transpose, "swapaxes": _transpose, "t": _t, "roll": _roll, "flip": _flip},
    **{
        "expand": _expand,
        "expand_as": _expand_as,
        "repeat": _repeat,
        "chunk": _chunk,
        "split": _split,
        "unbind": _unbind,
    },
    **{"contiguous": _same, "clone": _same, "narrow": _narrow, "index_select": _index_select},
}
TABLE: dict[Any, Callable[..., Any]] = {
    **_METHODS,
    **{getattr(torch, name): each for name, each in _METHODS.items() if hasattr(torch, name)},
    **{"to": _to, "float": _cast_to(torch.float32), "type_as": _type_as, "long": _cast_to(torch.int64)},
    operator.getitem: _getitem,
    torch.cat: _cat,
    torch.concat: _cat,
    torch.stack: _stack,
    F.pad: _pad,
    F.embedding: _embedding,
}
