"""Total variation: as the authors' code computes it."""

from __future__ import annotations

import pytest
import torch

from fxquant.synthesis.losses import total_variation
from tests.support.recorded_synthesis import recorded, relative


def test_value_loss_and_gradient_as_recorded() -> None:
    data = {key.removeprefix("tv/"): t for key, t in recorded().items() if key.startswith("tv/")}
    images = data["x"].clone().requires_grad_()
    value = total_variation(images)
    torch.testing.assert_close(value.detach(), data["value"], rtol=1e-5, atol=0)
    loss = (value - data["tau"]).abs()
    torch.testing.assert_close(loss.detach(), data["loss"], rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(loss, images)
    assert relative(gradient, data["grad"]) < 1e-5


def test_a_flat_image_has_none_and_an_edge_its_length() -> None:
    images = torch.zeros(1, 1, 4, 4)
    assert float(total_variation(images)) == 0
    images[..., 2:] = 1  # four steps to the right, none down, three on each diagonal
    assert float(total_variation(images)) == pytest.approx(4**0.5 + 2 * 3**0.5)
