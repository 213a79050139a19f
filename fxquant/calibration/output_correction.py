"""The mean and the size of a product's output, corrected in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.calibration.moments import Moments


def output_factor(weight: Tensor, rounded: Tensor, moments: Moments) -> Tensor:
    """
    Return the factors a ``(O,)`` for which ``a (R x)`` is nearest to ``W f``, about their means (QwT-v2, arXiv:2505.20932).

    It is their covariance over the variance of ``R x``. weight: W, what the float product has. rounded: R, both ``(O, K)``. A
    factor that would not be positive, or is not known as the output is constant, is 1.
    """
    variance = (rounded @ moments.second(centred=True) * rounded).sum(1)
    covariance = (weight @ moments.cross(centred=True) * rounded).sum(1)
    usable = (variance > 0) & (covariance > 0)
    return torch.where(usable, covariance / torch.where(usable, variance, 1.0), 1.0)


def bias_shift(weight: Tensor, rounded: Tensor, moments: Moments) -> Tensor:
    """Return what to add to the bias ``(O,)`` for the mean of ``R x`` to be that of ``W f``."""
    return weight @ moments.mean_f - rounded @ moments.mean_x
