"""How the tiles of kernels are chosen: each is measured on the operands of the first call of its kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton.testing


def bench(call: Callable[[], Any], quantiles: list[float]) -> Any:
    """Return the milliseconds of a kernel with one tile: shorter measurements than Triton's own, there are many tiles."""
    return triton.testing.do_bench(call, warmup=5, rep=20, quantiles=quantiles)
