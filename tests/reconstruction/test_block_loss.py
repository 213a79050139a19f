"""The loss of a block."""

from __future__ import annotations

import pytest
import torch

from fxquant.reconstruction.block_loss import BlockLoss, Errors


def test_each_error_counts_in_units_of_its_first_value() -> None:
    first = Errors(torch.tensor(4.0), torch.tensor(0.5))
    loss = BlockLoss(first, weight=2.0)
    assert float(loss.of(first)) == 3
    assert float(loss.of(Errors(torch.tensor(2.0), torch.tensor(0.25)))) == 1.5
    assert float(loss.of(Errors(torch.tensor(2.0), None))) == 1


def test_errors_are_means_over_all_values() -> None:
    found = Errors.of([torch.ones(2, 3), torch.ones(2, 4)], [torch.zeros(2, 3), torch.full((2, 4), 3.0)], 1)
    assert (float(found.local), float(found.remote)) == (1, 4)  # type: ignore[arg-type]


def test_without_errors_the_loss_and_its_gradient_are_zero() -> None:
    x = torch.zeros(3, requires_grad=True)
    errors = Errors.of([x, x], [torch.zeros(3)] * 2, 1)
    loss = BlockLoss(Errors(errors.local.detach(), errors.remote), 2.0).of(errors)
    loss.backward()
    assert float(loss.detach()) == 0
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([0, 0, 0])
