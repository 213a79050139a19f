"""`place_token_scales` gives scales per token to the operands in which calibration saw outlier tokens, and to no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import LayerSpec, OutlierTokens, PerTensor, PerToken, QuantConfig, TensorSpec
from fxquant.graph.attributes import called_module
from fxquant.graph.meta import record_of
from fxquant.graph.stages import Stage
from fxquant.observers.base import Observer
from fxquant.ops import dequantize_tokens
from fxquant.passes.place_token_scales import place_token_scales
from tests.support.check_pass import check_pass, check_unchanged, module_of
from tests.support.checkpoints import assert_same, round_trip
from tests.support.contract import sites

DECIDED_LATER = OutlierTokens()


def with_outlier() -> Tensor:
    """Return tokens ``(2, 9, 4)`` of which one is much wider than the others."""
    x = torch.rand(2, 9, 4, generator=torch.Generator().manual_seed(0)) - 0.5
    x[0, 3] *= 40
    return x


def two_layers() -> nn.Module:
    """Return two layers, of which the second reads tokens of much the same range."""
    torch.manual_seed(0)
    model = module_of(lambda self, x: self.second(self.first(x).sigmoid()))
    model.first, model.second = nn.Linear(4, 6), nn.Linear(6, 5)
    return model.eval()


def prepared(
    granularity: Any = DECIDED_LATER, model: nn.Module | None = None, symmetric: bool = False
) -> fx.GraphModule:
    layer = LayerSpec(activation=TensorSpec(8, symmetric, symmetric, granularity))
    return fxquant.prepare(two_layers() if model is None else model, QuantConfig(layer), with_outlier())


def calibrated(*given: Any, **options: Any) -> fx.GraphModule:
    gm = prepared(*given, **options)
    with torch.no_grad():
        for x in with_outlier().split(1):  # a plain loop calibrates it
            gm(x)
    return gm


def inputs_of(gm: fx.GraphModule) -> list[Any]:
    return [record.operands[0] for record in map(record_of, gm.graph.nodes) if record is not None]


def test_each_operand_is_decided_on_its_own() -> None:
    gm = check_pass(
        place_token_scales,
        calibrated(),
        (with_outlier(),),
        after="""
            (x)
            input_x = observers.input_x(x)
            first_input = observers.first_input(input_x)
            first_weight = observers.first_weight(first.weight)
            linear = F.linear(first_input, first_weight, first.bias)
            sigmoid = linear.sigmoid()
            second_input = observers.second_input(sigmoid)
            second_weight = observers.second_weight(second.weight)
            linear_1 = F.linear(second_input, second_weight, second.bias)
            return linear_1
        """,
        stage=Stage.QUANTISED,
    )
    first, second = inputs_of(gm)
    assert (first.spec, second.spec) == (TensorSpec(granularity=PerToken()), TensorSpec())
    assert first.token_ratio > 10 > 3 > second.token_ratio > 1
    specs = {m.operand: m.spec for m in gm.modules() if isinstance(m, Observer)}
    assert (specs["first.input"], specs["second.input"]) == (first.spec, second.spec)


def test_products_that_read_one_value_are_decided_alike() -> None:
    model = module_of(lambda self, x: self.first(x) + self.second(x))
    model.first, model.second = nn.Linear(4, 6), nn.Linear(4, 6)
    gm = place_token_scales(calibrated(model=model.eval())).graph_module
    assert [operand.spec for operand in inputs_of(gm)] == [TensorSpec(granularity=PerToken())] * 2


@pytest.mark.parametrize("granularity", [PerToken(), PerTensor()])
def test_what_the_config_decided_stays(granularity: Any) -> None:
    check_unchanged(place_token_scales, calibrated(granularity), stage=Stage.QUANTISED)


@pytest.mark.parametrize("symmetric", [False, True])
def test_codes_and_report_of_both_targets(symmetric: bool, tmp_path: Path) -> None:
    gm, x = calibrated(symmetric=symmetric), with_outlier()
    assert [called_module(node.args[0]) is None for node in gm.graph.nodes if record_of(node)] == [False] * 2
    assert str(inputs_of(gm)[0].spec.granularity) == "OutlierTokens(ratio=3.0)", (
        "convert leaves the prepared model as it is"
    )
    for site in sites(gm, x):
        site.check()
    for target in ("fake", "int8"):
        converted = fxquant.convert(gm, target)
        assert sum(node.target is dequantize_tokens for node in converted.graph.nodes) == (target == "fake")
        first, second = (record.operands[0] for record in fxquant.report(converted))
        assert (first.granularity, second.granularity) == ("PerToken()", "PerTensor()")
        assert (
            first.granularity_reason == f"the widest token has {first.token_ratio:.1f} times the median token's range"
        )
        assert second.granularity_reason is not None
        table = str(fxquant.report(converted))
        assert f"per token (outlier {first.token_ratio:.1f}x)" in table
        assert table.count("per token") == 1
        loaded = round_trip(converted, tmp_path)
        assert_same(converted, loaded, [x])
        assert str(fxquant.report(loaded)) == table


def test_a_half_calibrated_model_is_saved_with_what_it_saw(tmp_path: Path) -> None:
    gm, (one, other) = prepared(), with_outlier().split(1)
    gm(one)
    loaded = round_trip(gm, tmp_path)
    for each in (gm, loaded):
        each(other)
    assert_same(gm, loaded)
    assert [o.token_ratio for o in inputs_of(fxquant.convert(loaded))] == [
        o.token_ratio for o in inputs_of(fxquant.convert(gm))
    ]
