"""The scale of a row shrinks where its largest weights matter less than all others."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.calibration.row_clip import FACTORS, clip_rows


def to_grid(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight / scale).round().clamp(-8, 7) * scale


def test_each_row_gets_the_best_factor_for_its_weighed_error() -> None:
    weight = torch.randn(3, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight[0, 5] = 6.0
    scale, ones = weight.abs().amax(1, keepdim=True) / 7.5, torch.eye(400, dtype=torch.float64)
    plain = clip_rows(weight, scale, ones, to_grid)
    losses = torch.stack([(to_grid(weight, scale * f) - weight).square().sum(1) for f in FACTORS])
    torch.testing.assert_close(plain[:, 0] / scale[:, 0], torch.tensor(FACTORS, dtype=torch.float64)[losses.argmin(0)])
    assert float(plain[0] / scale[0]) < 0.9
    heavy = ones.clone()
    heavy[5, 5] = 1e4
    assert float(clip_rows(weight, scale, heavy, to_grid)[0] / scale[0]) > 0.9
