"""What can be wrong with an argument of an operator: it is too short, strided, huge, of another dtype, or no number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int8,
    torch.uint8,
    torch.int32,
    torch.int64,
)
INTEGERS = (0, -1, 1, 127, 128, 255, 256, 2**31, 2**62, -(2**62), 2**63 - 1, 2**64)
FLOATS = (0.0, -1.0, math.nan, math.inf, -math.inf, 1e-300, 1e300)

# Of these only the memory or the values differ, which fake tensors do not have.
MEMORY = ("huge", "cut short")
VALUES = ("filled", "no storage")
# And of these the values differ as well.
REPEATED = ("overlapping", "expanded")


def changes(args: tuple[Any, ...]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield what is changed and the arguments, one of which is changed."""
    for index, value in enumerate(args):
        for what, changed in _changes_of(value):
            yield f"argument {index}: {what}", (*args[:index], changed, *args[index + 1 :])


def _changes_of(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Tensor):
        yield from _shapes(value)
        yield from _layouts(value)
        yield from _values(value)
        yield "missing", None
        yield "text", "text"
    elif value is None:
        yield "given", torch.rand(())
        yield "a vector", torch.rand(3)
    elif isinstance(value, bool):
        yield "the other", not value
    elif isinstance(value, int):
        yield from ((str(n), n) for n in INTEGERS)
        yield "a fraction", 0.5
    elif isinstance(value, float):
        yield from ((str(x), x) for x in FLOATS)
    elif isinstance(value, str):
        yield "nonsense", "nonsense"
    elif isinstance(value, torch.dtype):
        yield from ((str(dtype), dtype) for dtype in (torch.int32, torch.float64, torch.complex64))
    elif isinstance(value, tuple):
        for what, changed in changes(value):
            yield f"within, {what}", changed


def _shapes(t: Tensor) -> Iterator[tuple[str, Tensor]]:
    for d, size in enumerate(t.shape):
        yield f"short along {d}", t.narrow(d, 0, size - 1).clone()
        yield f"long along {d}", torch.cat((t, t.narrow(d, 0, 1)), d)
        yield f"empty along {d}", t.narrow(d, 0, 0).clone()
        yield f"one along {d}", t.narrow(d, 0, 1).clone()
    yield "one axis more", t[None]
    yield "two axes more", t[None, None]
    yield "one axis", t.flatten()
    yield "no axis", t.flatten()[0].clone()
    yield "two elements", t.flatten()[0].expand(2).clone()
    yield "nothing", t.new_empty(0)
    yield from (
        (f"in {dtype}", t.to(dtype)) for dtype in (*DTYPES, torch.bool, torch.complex64) if dtype is not t.dtype
    )


def _layouts(t: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "strided", torch.stack((t, torch.ones_like(t)), -1)[..., 0]
    yield "transposed", t.mT.contiguous().mT if t.dim() > 1 else t
    yield "with an offset", torch.cat((t.flatten()[:1], t.flatten()))[1:].view(t.shape)
    yield "negated when read", torch._neg_view(-t) if t.is_floating_point() and t.itemsize > 1 else t
    if t.dim() > 0:
        yield "overlapping", t.flatten().as_strided(t.shape, (1,) * t.dim())
    for d, size in enumerate(t.shape):
        first = t.narrow(d, 0, 1)
        yield f"expanded along {d}", first.expand(t.shape)
        for large in (2**31, 2**40, 2**60):
            if t.numel() // size * large < 2**62:
                yield f"huge along {d}", first.expand(*t.shape[:d], large, *t.shape[d + 1 :])
    yield "huge", t.flatten()[:1].expand(2**33)
    for kept in (0, t.nbytes - t.element_size()):
        cut = t.clone(memory_format=torch.contiguous_format)
        cut.untyped_storage().resize_(kept)
        yield "cut short", cut


def _values(t: Tensor) -> Iterator[tuple[str, Tensor]]:
    if t.is_floating_point():
        filled = ((x, torch.full_like(t, x, dtype=torch.float64)) for x in (*FLOATS[:-2], 3e38, 1e-45))
        yield from ((f"filled with {x}", values.to(t.dtype)) for x, values in filled)
        yield "no storage", torch._efficientzerotensor(t.shape, dtype=t.dtype, device=t.device)  # type: ignore[attr-defined]
    else:
        ends = torch.iinfo(t.dtype)
        yield from ((f"filled with {n}", torch.full_like(t, n)) for n in (ends.min, 0, ends.max))
