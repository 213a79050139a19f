"""Prepared models whose observers hold what a search would have found, for the passes that put it into the graph."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import QuantConfig
from fxquant.observers.base import Observer

TOKENS = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))


def prepared(
    module: nn.Module,
    x: Tensor = TOKENS,
    config: QuantConfig | None = None,
    noise: int = 4,
    shift: int = 0,
) -> fx.GraphModule:
    """Return a calibrated model: `noise` numbers on each input's observer, a shift of `shift` ones on each weight's."""
    gm = fxquant.prepare(module.eval(), config or fxquant.recipe("minmax"))
    gm(x)
    generator = torch.Generator().manual_seed(1)
    for observer in gm.modules():
        if isinstance(observer, Observer) and observer.operand.endswith("input"):
            observer.noise = torch.rand(noise, generator=generator) * 0.2
        elif isinstance(observer, Observer):
            observer.bias_shift = torch.rand(shift, generator=generator)
    return gm


def simulated(
    module: nn.Module, x: Tensor = TOKENS, config: QuantConfig | None = None, noise: int = 4
) -> fx.GraphModule:
    """Return the simulated model with its noise."""
    return fxquant.convert(prepared(module, x, config, noise), "fake")
