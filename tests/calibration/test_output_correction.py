"""The correction of outputs: none for equal ones, and the least squares of each channel for others."""

from __future__ import annotations

import torch

from fxquant.calibration.moments import Moments
from fxquant.calibration.output_correction import bias_shift, output_factor

GENERATOR = torch.Generator().manual_seed(0)
F = torch.randn(50, 6, generator=GENERATOR, dtype=torch.float64) + 1
W = torch.randn(3, 6, generator=GENERATOR, dtype=torch.float64)


def test_equal_outputs_are_left_as_they_are() -> None:
    moments = Moments.of(F, F, compares=True)
    torch.testing.assert_close(output_factor(W, W, moments), torch.ones(3).double())
    torch.testing.assert_close(bias_shift(W, W, moments), torch.zeros(3).double(), rtol=0, atol=1e-6)


def test_they_are_the_least_squares_of_each_channel() -> None:
    x, rounded = F.round(), (2 * W).round() / 2
    moments, wanted, found = Moments.of(x, F, compares=True), F @ W.T, x @ rounded.T
    factor = output_factor(W, rounded, moments)
    shift = bias_shift(W, factor[:, None] * rounded, moments)
    for channel in range(3):
        columns = torch.stack([found[:, channel], torch.ones(50)], 1)
        expected = torch.linalg.lstsq(columns, wanted[:, channel]).solution
        torch.testing.assert_close(torch.stack([factor[channel], shift[channel]]), expected, rtol=1e-4, atol=1e-5)


def test_a_factor_that_would_turn_the_sign_or_is_not_known_is_1() -> None:
    moments = Moments.of(F, F, compares=True)
    assert torch.equal(output_factor(W, -W, moments), torch.ones(3).double())
    assert torch.equal(output_factor(W, torch.zeros_like(W), moments), torch.ones(3).double())
