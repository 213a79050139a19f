"""Agreement of outputs: decibels, the threshold, and outputs that cannot be compared."""

from __future__ import annotations

import math

import pytest
import torch

from fxquant.benchmark.agreement import LEAST_SQNR, Agreement, compare_outputs
from fxquant.errors import InputError


def test_relative_error_and_decibels() -> None:
    reference = torch.tensor([[3.0, 4.0]])
    agreement = compare_outputs(reference + torch.tensor([[0.5, 0.0]]), reference)
    assert agreement.relative_error == pytest.approx(0.1)
    assert agreement.sqnr == pytest.approx(20)
    assert agreement.objection() is None
    assert compare_outputs(reference, reference).sqnr == math.inf


@pytest.mark.parametrize("output", [[[0.0, 0.0]], [[4.0, 3.0]], [[math.nan, 4.0]], [[math.inf, 4.0]]])
def test_other_outputs_do_not_agree(output: list[list[float]]) -> None:
    objection = compare_outputs(torch.tensor(output), torch.tensor([[3.0, 4.0]])).objection()
    assert objection is not None
    assert "does not agree with float32: SQNR" in objection


def test_threshold() -> None:
    assert Agreement(10 ** (-(LEAST_SQNR + 0.01) / 20)).objection() is None
    assert Agreement(10 ** (-(LEAST_SQNR - 0.01) / 20)).objection() is not None


def test_shapes_must_be_the_same() -> None:
    with pytest.raises(InputError, match=r"expected an output of shape \(2, 3\), found \(2, 4\)"):
        compare_outputs(torch.zeros(2, 4), torch.zeros(2, 3))
