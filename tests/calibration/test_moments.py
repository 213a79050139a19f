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
    added = Moments.of(X[:7], F[:7], compares=True)
    added.add(X[7:], F[7:])
    for found in (parts, added):
        assert found.rows == 30
        torch.testing.assert_close(found.mean_x, whole.mean_x)
        torch.testing.assert_close(found.mean_f, whole.mean_f)
        for centred in (False, True):
            torch.testing.assert_close(found.second(centred), whole.second(centred), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(found.cross(centred), whole.cross(centred), rtol=1e-5, atol=1e-5)


def test_what_they_are() -> None:
    x, f = X.double(), F.double()
    moments = Moments.of(x, f, compares=True)
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
