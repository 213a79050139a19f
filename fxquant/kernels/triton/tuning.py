"""How the tiles of kernels are chosen: each tile is timed on the operands of the first call of its kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton.testing


def bench(call: Callable[[], Any], quantiles: list[float]) -> Any:
    """
    Return the milliseconds of a kernel with one tile. It measures for less time than Triton does, as there are many tiles.
    """
    return triton.testing.do_bench(call, warmup=5, rep=20, quantiles=quantiles)
