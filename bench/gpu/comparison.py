"""How the checks compare a kernel with torch's operators, and how they keep it from trying all its tiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from fxquant.kernels import use_backend
from fxquant.kernels.triton import batched, gemm, layer_norm, quantize

TILE = 4  # the tile that is checked most: 128 x 128 sums for linear layers
RARELY = 2e-3  # how often another rounding of a function may give the code next to the right one


@contextmanager
def one_tile(index: int) -> Iterator[None]:
    """Let each kernel use the tile at `index` of those it chooses from: to choose takes longer than to check."""
    tuners = (gemm.gemm, batched.batched, layer_norm.layer_norm, quantize.quantize_values)
    known = [tuner.configs for tuner in tuners]
    try:
        for tuner, configs in zip(tuners, known, strict=True):
            tuner.configs = [configs[index % len(configs)]]
        yield
    finally:
        for tuner, configs in zip(tuners, known, strict=True):
            tuner.configs = configs


def differ(function: Any, arguments: tuple[Any, ...], case: str, rate: float = 0.0) -> str | None:
    """Compare the kernel with torch's operators; codes may be off by one at the given rate."""
    found = function(*arguments)
    with use_backend("aten"):
        expected = function(*arguments)
    return unlike(found, expected, case, rate)


def unlike(found: Any, expected: Any, case: str, rate: float = 0.0) -> str | None:
    """Return how results differ, None where they are equal but for codes that are off by one at the given `rate`."""
    for one, other in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        problem = _unlike(one, other, case, rate)
        if problem is not None:
            return problem
    return None


def _unlike(found: Tensor, expected: Tensor, case: str, rate: float) -> str | None:
    if found.dtype is not expected.dtype or found.shape != expected.shape:
        return f"{case}: {found.dtype} {tuple(found.shape)}, expected {expected.dtype} {tuple(expected.shape)}"
    wrong = (found.double() != expected.double()).double().mean().item()
    largest = (found.double() - expected.double()).abs().max().item()
    allowed = wrong <= rate and (largest <= 1 or rate == 0.0)
    return None if allowed else f"{case}: {wrong:.2%} of the results differ, by up to {largest:.3g}"
