"""ERQ's ridge: nothing to undo is left alone, the closed form is the regression, and held-out images decide."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.calibration.moments import Moments
from fxquant.calibration.ridge import Regression, fit_ridge


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


W = drawn(4, 6)
F = drawn(400, 6, seed=1) + 1


def halves(x: Tensor) -> list[Moments]:
    return [Moments.of(x[i::2], F[i::2], compares=True) for i in (0, 1)]


def test_float_inputs_leave_the_weight_as_it_is() -> None:
    moments = Moments.of(F, F, compares=True)
    torch.testing.assert_close(Regression.of(W, moments).change(0.1), torch.zeros_like(W), rtol=0, atol=1e-6)
    assert torch.equal(fit_ridge(W, halves(F), (0.1, 1.0)), W)


def test_it_is_the_regression_of_the_error_on_the_input() -> None:
    x = (2 * F).round() / 2
    moments, centred = Moments.of(x, F, compares=True), x - x.mean(0)
    error = (F - F.mean(0) - centred) @ W.T
    penalty = 0.3 * centred.square().mean()
    change = torch.linalg.solve(centred.T @ centred / len(x) + penalty * torch.eye(6), centred.T @ error / len(x)).T
    torch.testing.assert_close(Regression.of(W, moments).change(0.3), change, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fit_ridge(W, halves(x), (0.3,)), W + change, rtol=1e-4, atol=1e-5)


def test_the_penalty_that_held_out_images_want() -> None:
    regular = F + 0.5 * F.roll(1, 1)  # an error that is the same everywhere, which the least penalty undoes best
    best = fit_ridge(W, halves(regular), (0.001,))
    torch.testing.assert_close(fit_ridge(W, halves(regular), (10.0, 0.001, 1.0)), best)
    chance = F + drawn(400, 6, seed=2)  # shrinks, which a penalty makes less of, not none
    assert not torch.equal(fit_ridge(W, halves(chance), (0.01, 1.0)), W)
    apart = [
        Moments.of(F[i::2] * (2 - 1.5 * i), F[i::2], compares=True) for i in (0, 1)
    ]  # each half wants the opposite
    assert torch.equal(fit_ridge(W, apart, (0.01, 1.0)), W)
