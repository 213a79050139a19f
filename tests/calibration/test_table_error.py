"""What 8-bit tables of powers add to the error of a product: against its definition, and up to the report."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx

import fxquant
from fxquant import AdaLogGELU, LayerSpec, Metric, QuantConfig, ScaleSearch, TensorSpec
from fxquant.calibration.problem import Problem
from fxquant.calibration.sides import Part, Side
from fxquant.calibration.table_error import table_error
from fxquant.graph.meta import Record, record_of, set_record
from fxquant.inspection.report import TABLE_SHARE
from fxquant.observers.operand_spec import OperandSpec
from tests.support.searching import X, calibrated, mlp

QUICK = ScaleSearch(steps=4, smallest=0.5, rounds=1, max_rows=20)
WEIGHT, BIAS = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)), torch.linspace(-1, 1, 5)
INPUT = F.gelu(2 * torch.randn(30, 16, generator=torch.Generator().manual_seed(1)))


def problem_of(spec: OperandSpec, **options: Any) -> Problem:
    observer = spec.build("fc.input")
    observer(INPUT)
    weight = Side([Part.of(None, WEIGHT, ())], weight=True)
    return Problem(Side([Part.of(observer, INPUT, (1.0,))]), weight, Metric.L2, BIAS, **options)


def rounded(problem: Problem, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return `x` by the table, and by the powers themselves, both in float64 and by the formulas of the specs."""
    (part,) = problem.left.parts
    largest, step, shift = float(part.qparams.largest), float(part.qparams.base) / 37, 0.16997124254703522
    codes = torch.round(-torch.log2((x.double() + shift).clamp(min=1e-15) / largest).clamp(max=0) / step)
    powers = torch.where(codes < 2**4, torch.exp2(-codes * step), 0.0)
    scale = largest / 255
    return scale * (torch.round(255 * powers) - round(shift / scale)), largest * powers - shift


@pytest.mark.parametrize(("noise", "centred"), [(0.0, False), (0.1, False), (0.0, True)])
def test_is_the_change_of_the_output_by_the_table(noise: float, centred: bool) -> None:
    problem = problem_of(AdaLogGELU(), centred=centred)
    table, powers = rounded(problem, INPUT + noise)
    changes = [change @ WEIGHT.double().T for change in (table - powers, table - noise - INPUT)]
    if centred:
        changes = [change - change.mean(0) for change in changes]
    expected = [float(change.norm() / (INPUT @ WEIGHT.T + BIAS).norm()) for change in changes]
    assert 0.001 < expected[0] < 0.5 * expected[1] < 0.1
    assert table_error(problem, torch.full((16,), noise)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("spec", [TensorSpec(4), AdaLogGELU(published=True)])
def test_nothing_else_has_a_table(spec: OperandSpec) -> None:
    assert table_error(problem_of(spec)) is None


@pytest.fixture(scope="module")
def prepared() -> fx.GraphModule:
    """Return a calibrated model of two layers, whose second reads powers."""
    return calibrated(mlp(), QuantConfig(LayerSpec(gelu=AdaLogGELU(4), search=QUICK)), X)


def table_errors(gm: fx.GraphModule) -> list[tuple[float, float] | None]:
    return [operand.table_error for row in fxquant.report(gm) for operand in row.operands]


def test_the_report_states_it_at_every_stage(prepared: fx.GraphModule) -> None:
    for gm in (prepared, fxquant.convert(prepared, "fake"), fxquant.convert(prepared)):
        first, weight, powers, second = table_errors(gm)
        assert (first, weight, second) == (None, None, None)
        assert powers is not None
        assert 1e-3 < powers[0] < powers[1] < 0.3
        assert f" (8-bit table {powers[0]:.1%} of {powers[1]:.1%} error)" in str(fxquant.report(gm))
        assert table_errors(gm) == table_errors(prepared)


def test_without_a_search_there_is_none() -> None:
    unsearched = calibrated(mlp(), QuantConfig(LayerSpec(gelu=AdaLogGELU())), X)
    assert table_errors(fxquant.convert(unsearched)) == [None] * 4


@pytest.mark.parametrize(
    ("error", "told"), [(0.08 * TABLE_SHARE, ""), (0.08, "1 products, of 1 that read them: 8.0% of 8.0% in 2")]
)
def test_what_is_most_of_the_error_is_told_below_the_products(
    prepared: fx.GraphModule, error: float, told: str
) -> None:
    gm = copy.deepcopy(prepared)
    node, record = powers_of(gm)
    powers, weight = record.operands
    set_record(node, replace(record, operands=(replace(powers, table_error=(error, 0.08)), weight)))
    said = [line for line in str(fxquant.report(gm)).splitlines() if line.startswith("8-bit tables of powers")]
    assert len(said) == bool(told)
    assert all(line.endswith(told) for line in said)


def test_an_operand_left_float_has_none(prepared: fx.GraphModule) -> None:
    _, record = powers_of(prepared)
    assert record.left_float("too sensitive").operands[0].table_error is None


def powers_of(gm: fx.GraphModule) -> tuple[fx.Node, Record]:
    records = ((node, record_of(node)) for node in gm.graph.nodes)
    return next((node, r) for node, r in records if r is not None and r.operands[0].table_error is not None)
