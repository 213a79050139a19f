"""How kernels of every device are told to quantise their result."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Quantizer(NamedTuple):
    """How results are turned into codes."""

    scale: Tensor
    zero_point: Tensor | None
    low: Tensor | None
    split: Tensor | None
    noise: Tensor | None
    qmin: int
    qmax: int


Rows = tuple[Tensor | None, Tensor | None]  # scale and zero point of each row of codes
NO_ROWS: Rows = (None, None)
NO_QUANTIZER = (None, None, None, None, None, 0, 0)
