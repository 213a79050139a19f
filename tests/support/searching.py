"""Small models and configs whose scales are searched, and what a search left in their observers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import (
    LayerSpec,
    Metric,
    Noise,
    NoisyBias,
    PerChannel,
    PerHead,
    QuantConfig,
    ScaleSearch,
    TensorSpec,
    TwinGELU,
    TwinSoftmax,
)
from fxquant.observers.base import Observer
from tests.support.models import small_vit

SIGNED = TensorSpec(4, signed=True, symmetric=True)
HEADS = TensorSpec(4, signed=True, symmetric=True, granularity=PerHead())
ROWS = TensorSpec(4, signed=True, symmetric=True, granularity=PerChannel(0))
NOISE = NoisyBias(mean_steps=10, range_steps=10)
QUICK: dict[str, Any] = {"steps": 12, "smallest": 0.3, "rounds": 1, "coarse": False}


def layer(noise: NoisyBias | None = None, **search: Any) -> LayerSpec:
    options = ScaleSearch(**(QUICK | search))
    twins: dict[str, Any] = {"softmax": TwinSoftmax(4), "gelu": TwinGELU(4)}
    return LayerSpec(ROWS, SIGNED, query=HEADS, key=HEADS, value=HEADS, search=options, noise=noise, **twins)


def config(noise: NoisyBias | None = None, **search: Any) -> QuantConfig:
    return QuantConfig(layer(noise, **search), attention=True)


def calibrated(model: nn.Module, how: QuantConfig, *batches: Any, **options: Any) -> fx.GraphModule:
    prepared = fxquant.prepare(model.eval(), how)
    return fxquant.calibrate(prepared, batches, **({"progress": False} | options))


def state(prepared: fx.GraphModule) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in prepared.named_buffers() if name.startswith("observers.")}


def assert_same(one: fx.GraphModule, two: fx.GraphModule) -> None:
    first, second = state(one), state(two)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def observers(prepared: fx.GraphModule) -> dict[str, Observer]:
    return {m.operand: m for m in prepared.modules() if isinstance(m, Observer)}


def vit() -> nn.Module:
    torch.manual_seed(0)
    return small_vit(depth=1)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 5)).eval()


X = torch.randn(40, 12, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.2, 2, 12)
RICH = config(
    NoisyBias(Noise.NORMAL, mean_steps=10, range_steps=10), metric=Metric.FISHER, correct_bias=True, max_rows=30
)
