"""What each observer lets a search choose from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant import Log2, PerChannel, PerHead, RowGroups, TensorSpec, TwinGELU, TwinSoftmax
from fxquant.numerics.granularity import Granularity
from fxquant.observers.base import Observer
from fxquant.observers.operand_spec import OperandSpec

MULTIPLIERS = torch.tensor([0.5, 1.0, 2.0])


def probabilities() -> Tensor:
    return F.softmax(3 * torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)), -1)


def observed(spec: OperandSpec, x: Tensor) -> Any:
    observer = spec.build("site")
    observer(x)
    return observer


@pytest.mark.parametrize("granularity", [PerChannel(0), PerHead(), RowGroups(3)], ids=repr)
def test_each_group_has_a_multiple_of_its_own_scale(granularity: Granularity) -> None:
    observer = observed(TensorSpec(granularity=granularity), torch.randn(3, 3, 4))
    initial = observer.initial_qparams()
    assert observer.candidates(MULTIPLIERS) == 3
    chosen = observer.candidate(initial, MULTIPLIERS, torch.tensor([2, 0, 1]))
    assert chosen.scale.equal(initial.scale * torch.tensor([2, 0.5, 1]))
    assert chosen.zero_point.equal(initial.zero_point)
    shared = observer.candidate(initial, MULTIPLIERS, torch.tensor(2))
    assert shared.scale.equal(initial.scale * 2)
    assert observer.step(chosen) is chosen.scale


@pytest.mark.parametrize("published", [False, True])
def test_gelu_moves_its_high_scale_alone(published: bool) -> None:
    observer = observed(TwinGELU(published=published), F.gelu(torch.randn(100)))
    initial = observer.initial_qparams()
    wide = observer.candidate(initial, MULTIPLIERS, torch.tensor(2))
    torch.testing.assert_close(wide.high, initial.high * 2)
    assert (float(wide.low), float(wide.split)) == (float(initial.low), 0)
    assert observer.step(wide) is wide.high
    assert observer.candidates(MULTIPLIERS) == 3


@pytest.mark.parametrize(("power_of_two", "count"), [(True, 20), (False, 40)])
def test_softmax_chooses_among_splits_whatever_the_multipliers(power_of_two: bool, count: int) -> None:
    observer = observed(TwinSoftmax(power_of_two=power_of_two), probabilities())
    initial = observer.initial_qparams()
    assert observer.candidates(MULTIPLIERS) == observer.candidates(torch.ones(100)) == count
    every = [observer.candidate(initial, MULTIPLIERS, torch.tensor(i)) for i in range(count)]
    assert len({float(q.split) for q in every}) == count
    assert initial.split in [q.split for q in every]


def test_only_splits_are_searched_whole_and_only_published_ones_alone() -> None:
    observers: dict[str, Observer] = {
        "tensor": TensorSpec().build("site"),
        "log": Log2().build("site"),
        "gelu": TwinGELU(published=True).build("site"),
        "softmax": TwinSoftmax().build("site"),
        "published": TwinSoftmax(published=True).build("site"),
    }
    assert [name for name, o in observers.items() if o.searched_whole] == ["softmax", "published"]
    assert [name for name, o in observers.items() if o.searched_alone] == ["published"]


def test_operators_are_given_what_was_found() -> None:
    twin, log = observed(TwinSoftmax(6), probabilities()), observed(Log2(3), probabilities())
    found = twin.calculate_qparams()
    assert twin.operator_arguments() == {
        **{"high": found.high, "low": found.low, "split": found.split},
        **{"qmin": -31, "qmax": 31},
    }
    assert {k: float(v) for k, v in log.operator_arguments().items()} == {"scale": 1, "qmin": -1, "qmax": 7}
