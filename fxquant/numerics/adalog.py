"""Values as powers of a base that is fitted to them (AdaLog, section 3.2), and their places among even steps."""

from __future__ import annotations

import torch
from torch import Tensor

RESOLUTION = 37  # a base is 2^(Q / 37) with a whole Q
GRID = 255  # even steps from zero to the largest value
LEAST = 1e-15  # of a ratio to the largest value


def look_up(x: Tensor, largest: Tensor, step: Tensor, table: Tensor, shift: float) -> Tensor:
    """
    Return ``table[q]`` with ``q = round(-log2((x + shift) / largest) / step)``, 0 at least, of `x` of any shape.

    table: ``(n + 1,)``, of the powers ``2^(-q step)`` of n exponents and, last, of zero, as which all that is smaller counts.
    largest, step: 0-dim float32.
    """
    count = table.shape[0] - 1
    ratio = ((x.float() + shift) / largest).clamp_(LEAST, 1)
    exponents = ratio.log2_().neg_().div_(step).round_()
    # By whole numbers of 32 bits, and along one axis: a fifth of the time of ``table[exponents]`` on a CPU.
    index = exponents.nan_to_num_(nan=count).clamp_(max=count).int().flatten()
    return table.index_select(0, index).reshape(x.shape)


def powers(base: Tensor, count: int) -> Tensor:
    """
    Return ``2^(-q base / 37)`` for q in 0..count-1, and 0 last, ``(count + 1,)`` float32, as the tables of AdaLog hold them.

    A power is a mantissa, rounded to a multiple of ``1 / (2 count - 2)``, shifted by ``floor(q base / 37)``. base: Q, 0-dim.
    """
    exponents = torch.arange(count, device=base.device) * base
    shifts, steps = torch.floor(exponents / RESOLUTION), 2 * count - 2
    mantissa = torch.round(torch.exp2(shifts - exponents / RESOLUTION) * steps) / steps
    return _with_zero(mantissa * torch.exp2(-shifts))


def exact_powers(base: Tensor, count: int) -> Tensor:
    """Return ``2^(-q base / 37)`` for q in 0..count-1, and 0 last, ``(count + 1,)`` float32."""
    exponents = torch.arange(count, device=base.device) * base
    return _with_zero(torch.exp2(-exponents / RESOLUTION))


def grid_powers(base: Tensor, count: int) -> Tensor:
    """Return the same in whole steps of 1/255, so that none is off by more than 1/510."""
    return torch.round(GRID * exact_powers(base, count))


def _with_zero(values: Tensor) -> Tensor:
    return torch.cat([values, values.new_zeros(1)])
