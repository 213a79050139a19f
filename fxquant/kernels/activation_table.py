"""GELU as a table of polynomials, for kernels without an error function."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

SEGMENTS = 32
STEP = 0.171875
DEGREE = 3
APPROXIMATIONS = ("none", "tanh")


@functools.cache
def gelu_table(approximate: str) -> Tensor:
    """
    Return ``(4, 32)`` float32: coefficients, lowest degree first, of cubics that give ``gelu(x) = max(x, 0) - r(|x|)``.

    Segment n is centred on ``0.171875 n``, and its variable is the distance from the centre. ``r(t) = t (1 - Phi(t))``
    decays so fast that the last segment stands for everything beyond. The error is below 1e-6, about that of
    `torch.nn.functional.gelu` in float32, and 0 for 0.

    approximate: as in `torch.nn.functional.gelu`, "none" or "tanh".
    """
    if approximate not in APPROXIMATIONS:
        raise ValueError(f"expected one of {APPROXIMATIONS}, got {approximate!r}")
    with torch.device("cpu"), torch.inference_mode(False):  # whatever holds where it is first asked for
        return _fit(approximate)


def _fit(approximate: str) -> Tensor:
    nodes = torch.arange(DEGREE + 4, dtype=torch.float64)
    distance = STEP / 2 * torch.cos((2 * nodes + 1) * math.pi / (2 * (DEGREE + 4)))
    t = STEP * torch.arange(SEGMENTS, dtype=torch.float64)[:, None] + distance
    powers = distance[:, None] ** torch.arange(DEGREE + 1)
    remainder = _remainder(t, approximate)
    coefficients = torch.linalg.lstsq(powers.expand(SEGMENTS, -1, -1), remainder[..., None]).solution[..., 0]
    coefficients[0, 0] = 0
    coefficients[0, 1:] = torch.linalg.lstsq(powers[:, 1:], remainder[0, :, None]).solution[:, 0]
    table: Tensor = coefficients.T.float().contiguous()
    return table


def _remainder(t: Tensor, approximate: str) -> Tensor:
    if approximate == "none":
        return t * 0.5 * torch.erfc(t / math.sqrt(2))
    inner = math.sqrt(2 / math.pi) * (t + 0.044715 * t**3)
    return t * torch.sigmoid(-2 * inner)
