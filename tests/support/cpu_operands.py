"""Operands for kernels, and how far apart two ways of computing the same codes may be."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from fxquant.kernels.cpu import Quantizer
from fxquant.numerics.arithmetic import code_range, storage_offset

seeds = st.integers(0, 2**31)
dtypes = st.sampled_from([torch.float32, torch.bfloat16])


def make_codes(generator: torch.Generator, *shape: int) -> Tensor:
    """Return int8 codes of the full range in which both ends, -128 and 127, are frequent."""
    values = torch.randint(-180, 180, shape, generator=generator)
    return values.clamp(-128, 127).to(torch.int8)


def make_weight(generator: torch.Generator, outputs: int, depth: int) -> Tensor:
    """Return a weight ``(O, K)`` with zero rows and columns up to multiples of 8, as lowering stores it."""
    weight = make_codes(generator, outputs, depth)
    return torch.nn.functional.pad(weight, (0, -depth % 8, 0, -outputs % 8))


def make_quantizer(
    generator: torch.Generator, width: int, bits: int, kind: str, noise: bool, reach: float = 3.0
) -> Quantizer:
    """Return a quantiser of values up to about `reach`; kind: "unsigned", "affine", "symmetric" or "twin"."""
    added = torch.rand(width, generator=generator) * 0.2 if noise else None
    qmin, qmax = code_range(bits, signed=kind != "unsigned")
    scale = torch.rand((), generator=generator) * reach / 2 ** (bits - 1) + 0.01
    if kind == "twin":
        low = torch.rand((), generator=generator) * 0.01 + 0.001
        return Quantizer(scale, None, low, torch.tensor(0.0), added, 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)
    zero = None
    if kind != "symmetric":
        zero = torch.randint(qmin, qmax + 1, (), generator=generator, dtype=torch.int32)
    return Quantizer(scale, zero, None, None, added, qmin, qmax)


def quantizers(twin: bool = True) -> st.SearchStrategy[tuple[int, str, bool]]:
    """Draw bits, kind and noise of `make_quantizer`."""
    kinds = ["unsigned", "affine", "symmetric", *(["twin"] if twin else [])]
    return st.tuples(st.integers(2, 8), st.sampled_from(kinds), st.booleans())


def exact_codes(y: Tensor, quantizer: Quantizer) -> Tensor:
    """Return the codes of `y` in float64 arithmetic."""
    q = quantizer
    y = y.double() if q.noise is None else y.double() + q.noise.double()
    if q.low is None or q.split is None:
        steps = y / q.scale.double() + (0 if q.zero_point is None else q.zero_point.double())
    else:
        steps = y / torch.where(y >= q.split, q.scale, q.low).double()
    return steps.round().clamp(q.qmin, q.qmax) - storage_offset(q.qmax)


def assert_codes(found: Tensor, y: Tensor, error: Tensor | float, quantizer: Quantizer) -> None:
    """
    Check that `found` are codes of values at most `error` away from `y` (float64).

    A quantiser is monotone, so that they lie between the codes of ``y - error`` and ``y + error``. What follows the values is
    float32: the sum with the noise, the division and the sum with the zero point, 2^-24 of each result.
    """
    q = quantizer
    noise = 0.0 if q.noise is None else q.noise.double().abs()
    zero = 0.0 if q.zero_point is None else q.zero_point.double().abs() * q.scale.double()
    slack = error + 2.0**-22 * (y.abs() + noise + zero)
    least, most = exact_codes(y - slack, q), exact_codes(y + slack, q)
    assert found.dtype is torch.int8
    assert found.shape == y.shape
    outside = (found < least) | (found > most)
    assert not bool(outside.any()), (
        f"{int(outside.sum())} of {found.numel()} codes, such as {found[outside][:5].tolist()}"
    )


def arguments(quantizer: Quantizer) -> tuple[Any, ...]:
    """Return the last arguments of `fxquant.ops` for a uniform quantiser, without the axis."""
    q = quantizer
    return (q.scale, q.zero_point, q.qmin, q.qmax, q.noise)
