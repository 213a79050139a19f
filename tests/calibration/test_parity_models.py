"""Whole models: `ptq4vit` and `base_ptq` as published find the intervals and give the logits of the published code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx

import fxquant
from fxquant import Metric, Role, TwinGELU, TwinSoftmax
from fxquant.graph.attributes import called_module
from fxquant.graph.meta import Operand, Product, Record, record_of
from fxquant.observers.base import Observer, QParams
from tests.support.published import METRICS, interval, recorded, recorded_model
from tests.support.tiers import keep_quick

RECIPES = {"base": "base_ptq", "ptq4vit": "ptq4vit"}
INTERVALS = {
    Role.WEIGHT: "w_interval",
    Role.QUERY: "A_interval",
    Role.SOFTMAX: "A_interval",
    Role.KEY: "B_interval",
    Role.VALUE: "B_interval",
}
MODULES = {Product.QK: ".matmul1", Product.PV: ".matmul2"}


def observers(prepared: fx.GraphModule) -> Iterator[tuple[Record, Operand, Observer]]:
    """Yield every observed operand of every product."""
    for node in prepared.graph.nodes:
        record = record_of(node)
        for argument, operand in zip(node.args, record.operands if record else (), strict=False):
            module = called_module(argument)
            if record is not None and isinstance(module, Observer):
                yield record, operand, module


def published_qparams(observer: Observer, value: Tensor) -> Any:
    """Return the quantisation with the interval `value`."""
    spec: Any = observer.spec
    if isinstance(spec, TwinSoftmax):
        return observer.at_split(value.reshape(()) * spec.qmax)  # type: ignore[operator]
    if isinstance(spec, TwinGELU):
        initial: Any = observer.initial_qparams()
        return type(initial)(value.reshape(()), initial.low, initial.split)
    return QParams(value.reshape(-1) if observer.axis is not None else value.reshape(()), None, observer.axis)


RUNS = [
    ("vit", "base", "L2_norm"),
    ("vit", "base", "cosine"),
    ("vit", "ptq4vit", "L2_norm"),
    ("swin", "base", "L2_norm"),
    ("swin", "ptq4vit", "L2_norm"),
]


@pytest.mark.parametrize(("model", "preset", "metric"), keep_quick(RUNS, RUNS[1], RUNS[2]))
def test_as_published(model: str, preset: str, metric: str) -> None:
    data, key = recorded(f"ptq4vit_model_{model}"), f"{preset}/{metric}/w6a6"
    config = fxquant.recipe(RECIPES[preset], 6, 6, published=True, metric=METRICS[metric])
    assert METRICS[metric] in (Metric.L2, Metric.COSINE)
    prepared = fxquant.prepare(recorded_model(f"ptq4vit_model_{model}"), config)
    fxquant.calibrate(prepared, [data["calib"].float()], progress=False)
    same, seen = [], set()
    for record, operand, observer in observers(prepared):
        name = f"{key}/{record.module}{MODULES.get(record.product, '')}/{INTERVALS.get(operand.role, 'a_interval')}"
        seen.add(name)
        spec: Any = observer.spec
        found, expected = interval(observer.calculate_qparams(), spec), data[name].reshape(-1)
        assert found.shape == expected.shape, name
        close = torch.isclose(found, expected, rtol=1e-4, atol=0)
        step = interval(observer.initial_qparams(), spec) * ((1.2 - 0.5) if preset == "base" else (1.2 - 0.01)) / 100
        assert bool((close | ((found - expected).abs() < 1.001 * step)).all()), name
        same += close.tolist()
        # From here on as published, so that the logits compare the quantisers alone.
        observer.refine(published_qparams(observer, expected))
    wanted = {name for name in data if name.startswith(f"{key}/") and name.endswith("interval")}
    assert {n for n in wanted if not n.endswith("a_neg_interval")} == seen
    assert same.count(False) <= 0.02 * len(same)
    with torch.no_grad():
        logits = fxquant.convert(prepared, "fake")(data["eval"].float())
    assert (logits - data[f"{key}/logits"]).norm() <= 1e-3 * data[f"{key}/logits"].norm()
