"""Hadamard matrices are orthogonal, and the rotations made of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fxquant.numerics.hadamard import hadamard, keeping_mean, random_rotation


@pytest.mark.parametrize("n", [1, 2, 4, 8, 12, 20, 28, 36, 44, 64, 72, 80, 88, 96, 192, 384])
def test_rows_of_ones_are_orthogonal(n: int) -> None:
    matrix = hadamard(n)
    assert matrix is not None
    assert bool((matrix.abs() == 1).all())
    assert torch.equal(matrix @ matrix.T, n * torch.eye(n, dtype=torch.float64))


@pytest.mark.parametrize("n", [3, 6, 10, 90, 92])
def test_none_where_none_is_known(n: int) -> None:
    assert hadamard(n) is None
    assert random_rotation(n, torch.Generator()) is None


@pytest.mark.parametrize("n", [1, 4, 12, 192])
def test_a_layer_norm_commutes_with_a_rotation_that_keeps_the_mean(n: int) -> None:
    rotation = random_rotation(n, torch.Generator().manual_seed(1))
    assert rotation is not None
    rotation = keeping_mean(rotation)
    assert torch.allclose(rotation @ rotation.T, torch.eye(n, dtype=torch.float64), atol=1e-12)
    x = torch.randn(5, n, dtype=torch.float64) + 3
    assert torch.allclose(F.layer_norm(x @ rotation, (n,)), F.layer_norm(x, (n,)) @ rotation, atol=1e-9)
    spread = torch.zeros(n, dtype=torch.float64)
    spread[0] = 1.0
    assert n < 12 or float((spread @ rotation).abs().max()) < 4 * n**-0.5, "an outlier is spread over all channels"


def test_another_seed_is_another_rotation() -> None:
    one, other = (random_rotation(8, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert one is not None
    assert other is not None
    assert not torch.equal(one, other)
