"""Moments of parts are those of the whole, about the mean or not."""

from __future__ import annotations

import pytest
import torch

from fxquant.calibration.moments import Moments, damped, total

F = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)) + 2
X = F.round()


def test_parts_add_up() -> None:
    whole = Moments.of(X, F, compares=True)
    parts = total(
        [Moments.of(x, f, compares=True) for x, f in zip(X.split([7, 1, 22]), F.split([7, 1, 22]), strict=True)]
    )
    assert parts.rows == 30
    for centred in (False, True):
        torch.testing.assert_close(parts.second(centred), whole.second(centred), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(parts.cross(centred), whole.cross(centred), rtol=1e-5, atol=1e-5)


def test_what_they_are() -> None:
    moments, x, f = Moments.of(X, F, compares=True), X.double(), F.double()
    torch.testing.assert_close(moments.second(centred=False), x.T @ x / 30)
    torch.testing.assert_close(moments.second(centred=True), x.T.cov(correction=0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moments.cross(centred=False), f.T @ x / 30, rtol=1e-5, atol=1e-5)
    expected = (f - f.mean(0)).T @ (x - x.mean(0)) / 30
    torch.testing.assert_close(moments.cross(centred=True), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError, match="do not compare"):
        Moments.of(X, F, compares=False).cross(centred=True)


def test_dead_channels_get_an_inverse_that_moves_nothing() -> None:
    second = torch.tensor([[2.0, 1, 0], [1, 4, 0], [0, 0, 0]], dtype=torch.float64)
    expected = torch.tensor([[2.3, 1, 0], [1, 4.3, 0], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(damped(second, 0.1), expected)
    assert torch.equal(damped(torch.zeros(2, 2), 0.1), torch.eye(2))
