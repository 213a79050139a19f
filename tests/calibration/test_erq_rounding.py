"""ERQ's rounding: what it equals, that no step makes it worse, and that it is worth it."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.calibration.erq_rounding import erq_round, refine

SCALE = torch.full((6, 1), 0.25, dtype=torch.float64)


def to_grid(weight: Tensor) -> Tensor:
    return (weight / SCALE).round().clamp(-8, 7) * SCALE


def beside(values: Tensor, upwards: Tensor) -> Tensor:
    return to_grid(values + torch.where(upwards, SCALE, -SCALE))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


W = drawn(6, 13) * 0.7
X = drawn(200, 13, seed=2) @ drawn(13, 13, seed=1)
H = X.T @ X / len(X)


def costs(rounded: Tensor) -> Tensor:
    return (X @ (rounded - W).T).square().sum(0)


def test_columns_that_have_nothing_in_common_are_rounded_to_nearest() -> None:
    assert torch.equal(erq_round(W, torch.eye(13, dtype=torch.float64), to_grid, beside, 0.01), to_grid(W))


def test_refining_stays_on_the_grid_and_makes_no_row_worse() -> None:
    refined = refine(W, H, to_grid, beside)
    torch.testing.assert_close(to_grid(refined), refined, rtol=0, atol=1e-12)
    assert bool((costs(refined) <= costs(to_grid(W)) + 1e-9).all())
    assert float(costs(refined).sum()) < 0.8 * float(costs(to_grid(W)).sum())
    assert bool(((refined - W).abs()[W.abs() < 1.7] < 0.25 + 1e-12).all())  # up or down, never further


def test_the_output_is_nearer_than_by_refining_alone() -> None:
    rounded = erq_round(W, H, to_grid, beside, 0.01)
    torch.testing.assert_close(to_grid(rounded), rounded, rtol=0, atol=1e-12)
    assert float(costs(rounded).sum()) < float(costs(refine(W, H, to_grid, beside)).sum())
