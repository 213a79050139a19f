"""Random operands of kernels, and the comparison of codes whose values are rounded differently."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant import ops
from fxquant.kernels.cpu import Quantizer

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def random_codes(generator: torch.Generator, *shape: int) -> Tensor:
    """Return codes of the full range."""
    return torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)


def padded(weight: Tensor) -> Tensor:
    """Pad ``(O, K)`` with zeros to multiples of 8, as lowering stores it."""
    return F.pad(weight, (0, -weight.shape[1] % 8, 0, -weight.shape[0] % 8))


def random_quantizer(generator: torch.Generator, kind: str, noise: int | None = None) -> Quantizer:
    """Return a quantiser: "signed", "unsigned" (affine, stored minus 128), "gelu" or "softmax" (twin); noise: its size."""
    size = float(torch.rand((), generator=generator)) + 0.5
    added = None if noise is None else torch.randn(noise, generator=generator) / 50
    if kind == "signed":
        return Quantizer(torch.tensor(size / 40), None, None, None, added, -128, 127)
    if kind == "unsigned":
        zero_point = torch.randint(0, 256, (), generator=generator, dtype=torch.int32)
        return Quantizer(torch.tensor(size / 40), zero_point, None, None, added, 0, 255)
    high, low = torch.tensor(size / 40), torch.tensor(0.17 / 127 * size)
    if kind == "gelu":
        return Quantizer(high, None, low, torch.tensor(0.0), added, -127, 127)
    return Quantizer(high, None, -low, torch.tensor(0.17), added, -127, 127)


def reference_codes(x: Tensor, quantizer: Quantizer) -> Tensor:
    """Return the codes of `x` by the operators of torch."""
    q = quantizer
    if q.low is None:
        return ops.quantize(x, q.scale, q.zero_point, q.qmin, q.qmax, None, q.noise)
    assert q.split is not None
    return ops.quantize_twin(x, q.scale, q.low, q.split, q.qmin, q.qmax, q.noise)


def assert_codes_of(found: Tensor, values: Tensor, dtype: torch.dtype, quantizer: Quantizer, tolerance: float) -> None:
    """
    Check that `found` are codes of `values` (float64) once these are rounded to `dtype`.

    The values are known to `tolerance`, relative and absolute: where a rounding boundary is as near, either code is right.
    """
    slack = tolerance * (1 + values.abs())
    codes: Callable[[Tensor], Tensor] = lambda v: reference_codes(v.float().to(dtype), quantizer).int()  # noqa: E731
    ends = [codes(values - slack), codes(values + slack)]
    if quantizer.low is not None and quantizer.split is not None and float(quantizer.low) < 0:
        # The codes of small probabilities fall while those of large ones rise.
        ends.append(codes(values))
    lower, upper = torch.stack(ends).amin(0), torch.stack(ends).amax(0)
    assert found.dtype is torch.int8
    assert bool(((found >= lower) & (found <= upper)).all())
    assert float((lower != upper).float().mean()) < 0.02, "the comparison has to mean something"
