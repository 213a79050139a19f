"""What shares a scale: the axis of each granularity, and values that are none."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fxquant
from fxquant.config.operands import TensorSpec
from fxquant.errors import CalibrationError, ConfigError
from fxquant.numerics.granularity import (
    Granularity,
    OutlierTokens,
    PerChannel,
    PerHead,
    PerProjection,
    PerTensor,
    PerToken,
    RowGroups,
)

UNTYPED: Any = fxquant  # for what a type checker would refuse


@pytest.mark.parametrize(
    ("granularity", "shape", "scales"),
    [
        (PerTensor(), (2, 3, 5, 4), 1),
        (PerChannel(0), (6, 4), 6),
        (PerChannel(-1), (2, 5, 4), 4),
        (PerHead(), (2, 3, 5, 4), 3),
        (RowGroups(3), (6, 4), 3),
    ],
    ids=repr,
)
def test_each_scale_is_that_of_the_values_that_share_it(
    granularity: Granularity, shape: tuple[int, ...], scales: int
) -> None:
    x = torch.rand(shape)
    observer = TensorSpec(granularity=granularity).build("site")
    observer(x)
    assert observer.rows(x).shape == (scales, x.numel() // scales)
    assert observer.rows(x).flatten().sort().values.equal(x.flatten().sort().values)
    assert observer.calculate_qparams().scale.numel() == scales
    assert observer.range()[1].equal(observer.rows(x).amax(1))


@given(groups=st.integers(1, 6), rows=st.integers(1, 4))
def test_row_groups_are_blocks_of_neighbours(groups: int, rows: int) -> None:
    x = torch.arange(groups * rows * 2.0).reshape(groups * rows, 2)
    observer = TensorSpec(granularity=RowGroups(groups)).build("site")
    assert observer.rows(x).equal(x.reshape(groups, -1))
    if groups > 1:
        with pytest.raises(CalibrationError, match=f"{groups * rows + 1} rows do not split into {groups} equal groups"):
            observer.rows(torch.zeros(groups * rows + 1, 2))


def test_granularities_that_look_alike_are_not_equal() -> None:
    alike = [
        PerTensor(),
        PerToken(),
        OutlierTokens(),
        OutlierTokens(4),
        PerChannel(0),
        PerChannel(1),
        PerHead(),
        RowGroups(1),
        RowGroups(2),
        PerProjection(),
    ]
    assert len({*alike, PerProjection(heads=True)}) == len(alike) + 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RowGroups(0), "RowGroups needs at least one group, got 0"),
        (lambda: UNTYPED.RowGroups(1.5), "RowGroups needs a whole number of groups, got 1.5"),
        (lambda: UNTYPED.RowGroups(True), "RowGroups needs a whole number of groups, got True"),
        *(
            (
                lambda ratio=ratio: UNTYPED.OutlierTokens(ratio),
                f"OutlierTokens.ratio must be a finite number of at least 1, got {ratio!r}",
            )
            for ratio in (0.9, float("nan"), float("inf"), True, "3")
        ),
        (lambda: UNTYPED.PerProjection(1), "PerProjection.heads must be True or False, got 1"),
        (lambda: UNTYPED.PerChannel("rows"), "PerChannel needs an integer axis, got 'rows'"),
    ],
)
def test_impossible_granularities(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()
