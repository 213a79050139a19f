"""Real numbers to the nearest power of a fitted base: as uniform codes, or as values."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.errors import InputError
from fxquant.kernels.checks import check_one, check_tensor
from fxquant.numerics.adalog import look_up


def quantize_adalog(x: Tensor, largest: Tensor, step: Tensor, table: Tensor, shift: float) -> Tensor:
    """
    Return int8 codes of `x`, any shape: ``table[q]`` with ``q = round(-log2((x + shift) / largest) / step)``.

    table: ``(n + 1,)`` int8, the uniform code of each power and, last, of ``-shift``: see `fxquant.numerics.adalog.look_up`.
    `fxquant.ops.dequantize` reads the codes, with 255 steps up to `largest`.
    """
    check_tensor("table", table, torch.int8, (None,))
    return _look_up(x, largest, step, table, shift)


def fake_quantize_adalog(x: Tensor, largest: Tensor, step: Tensor, levels: Tensor, shift: float) -> Tensor:
    """
    Return `x`, any shape, rounded as AdaLog's published code does, as float32; there is no int8 form.

    levels: ``(n + 1,)`` float32, the value of each power and, last, ``-shift``; the rest as of `quantize_adalog`.
    """
    check_tensor("levels", levels, torch.float32, (None,))
    return _look_up(x, largest, step, levels, shift)


def _look_up(x: Tensor, largest: Tensor, step: Tensor, table: Tensor, shift: float) -> Tensor:
    check_tensor("values", x, None)
    check_one("largest", largest, torch.float32)
    check_one("step", step, torch.float32)
    if table.shape[0] < 2:
        raise InputError(f"expected a table of two entries or more, found {table.shape[0]}")
    return look_up(x, largest, step, table, shift)
