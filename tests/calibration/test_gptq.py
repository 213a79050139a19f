"""GPTQ's rounding: what it equals, what does not matter, and that it is worth it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fxquant.calibration.gptq import gptq

STEP = 0.25
ROUND: dict[str, Any] = {"damping": 0.01, "act_order": True, "block": 128}


def to_grid(weight: Tensor) -> Tensor:
    return (weight / STEP).round().clamp(-8, 7) * STEP


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


W = drawn(6, 12) * 0.7
MIX = drawn(12, 12, seed=1)
X = drawn(200, 12, seed=2) @ MIX * torch.linspace(0.2, 2, 12, dtype=torch.float64)
H = X.T @ X / len(X)


def loss(rounded: Tensor, x: Tensor = X, wanted: Tensor | None = None) -> float:
    return float((x @ rounded.T - (X @ W.T if wanted is None else wanted)).square().sum())


def test_columns_that_have_nothing_in_common_are_rounded_to_nearest() -> None:
    independent = torch.linspace(0.1, 3, 12, dtype=torch.float64).diag()
    assert torch.equal(gptq(W, independent, to_grid, **ROUND), to_grid(W))


@pytest.mark.parametrize("act_order", [False, True])
def test_the_block_does_not_matter(act_order: bool) -> None:
    options = ROUND | {"act_order": act_order}
    whole = gptq(W, H, to_grid, **options)
    for block in (1, 5, 12):
        torch.testing.assert_close(gptq(W, H, to_grid, **(options | {"block": block})), whole, rtol=0, atol=1e-12)


def test_the_output_is_nearer_than_by_rounding_to_nearest() -> None:
    nearest = loss(to_grid(W))
    for act_order in (False, True):
        assert loss(gptq(W, H, to_grid, **(ROUND | {"act_order": act_order}))) < 0.7 * nearest
    assert not torch.equal(gptq(W, H, to_grid, **ROUND), gptq(W, H, to_grid, **(ROUND | {"act_order": False})))


def test_the_first_column_is_rounded_to_nearest_and_the_largest_one_in_act_order() -> None:
    first = gptq(W, H, to_grid, **(ROUND | {"act_order": False}))[:, 0]
    assert torch.equal(first, to_grid(W)[:, 0])
    largest = int(H.diagonal().argmax())
    assert torch.equal(gptq(W, H, to_grid, **ROUND)[:, largest], to_grid(W)[:, largest])


def test_a_dead_column_is_rounded_to_nearest_and_moves_no_other() -> None:
    second = H.clone()
    second[3], second[:, 3] = 0, 0
    alive = [i for i in range(12) if i != 3]
    rounded = gptq(W, second, to_grid, **ROUND)
    assert torch.equal(rounded[:, 3], to_grid(W)[:, 3])
    assert torch.equal(rounded[:, alive], gptq(W[:, alive], H[alive][:, alive], to_grid, **ROUND))
    assert torch.equal(gptq(W, torch.zeros_like(H), to_grid, **ROUND), to_grid(W))


def test_without_an_error_of_the_input_gptaq_is_gptq() -> None:
    assert torch.equal(
        gptq(W, H, to_grid, **ROUND), gptq(W, H, to_grid, **ROUND, error=torch.zeros_like(H), asymmetry=1)
    )
    error = drawn(12, 12, seed=3)
    assert torch.equal(gptq(W, H, to_grid, **ROUND), gptq(W, H, to_grid, **ROUND, error=error, asymmetry=0))


@pytest.mark.parametrize("block", [1, 4, 128])
def test_gptaq_makes_up_for_the_error_of_the_input(block: int) -> None:
    """By the formula of the paper, one column at a time; and the output comes nearer to what the float input gives."""
    read = X + 0.3 * X.roll(1, 1)
    second, error = read.T @ read / len(X), (X - read).T @ read / len(X)
    options = ROUND | {"block": block, "act_order": False}
    found = gptq(W, second, to_grid, **options, error=error, asymmetry=1.0)
    damped = second + 0.01 * second.diagonal().mean() * torch.eye(12)
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    own = (error @ upper.T).triu(1) @ upper
    moved, expected = W.clone(), torch.empty_like(W)
    for i in range(12):
        column = moved[:, i].clone()
        expected[:, i] = to_grid(column)
        moved[:, i:] += torch.outer(column, own[i, i:]) - torch.outer(
            (column - expected[:, i]) / upper[i, i], upper[i, i:]
        )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert loss(found, read) < loss(gptq(W, second, to_grid, **options), read)


def test_moments_that_are_rounding_errors_are_damped_until_they_have_an_inverse() -> None:
    noise = drawn(12, 12, seed=3) * 1e-16
    rounded = gptq(W, noise + noise.T, to_grid, **ROUND)
    assert torch.equal(rounded, to_grid(rounded))
    assert (rounded - W).abs().max() < 4 * STEP


def test_moments_that_are_not_finite_are_refused() -> None:
    with pytest.raises(torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        gptq(W, H * torch.nan, to_grid, **ROUND)
