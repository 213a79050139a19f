"""Soft targets: dense they are as recorded; they are moved, cut and put together without becoming so."""

from __future__ import annotations

import pickle

import pytest
import torch

from fxquant.distillation import LabelKind, SoftTargets, concatenate
from fxquant.errors import InputError
from tests.support.soft_labels import RECORDED, recorded_targets

STORED = [kind for kind in LabelKind if kind is not LabelKind.ORI]


def make_ori() -> SoftTargets:
    p = torch.eye(4)[:3] * 0.5 + 0.125
    return SoftTargets(torch.empty(3, 0, dtype=torch.int64), p, 4, LabelKind.ORI)


@pytest.mark.parametrize("kind", STORED)
def test_dense_targets_are_as_recorded(kind: LabelKind) -> None:
    dense = recorded_targets(kind).dense(int(RECORDED["classes"]))
    torch.testing.assert_close(dense, RECORDED[f"labels/{kind.value}/dense"], rtol=1e-5, atol=0)


def test_a_whole_distribution_is_dense_already() -> None:
    targets = make_ori()
    assert torch.equal(targets.dense(4), targets.probabilities)


def test_as_many_classes_as_are_stored_leave_nothing_to_spread() -> None:
    p = torch.tensor([[0.5, 0.2, 0.1, 0.1, 0.05]])
    targets = SoftTargets(torch.tensor([[4, 3, 2, 1, 0]]), p, 5, LabelKind.MARGINAL_SMOOTHING_K5)
    assert torch.equal(targets.dense(), p.flip(1))


@pytest.mark.parametrize("targets", [*map(recorded_targets, STORED), make_ori()], ids=lambda t: t.kind.value)
def test_parts_put_together_are_the_whole(targets: SoftTargets) -> None:
    whole = concatenate([targets[:2], targets[2:]])
    assert torch.equal(whole.dense(), targets.dense())
    assert torch.equal(targets[[2, 0]].dense(), targets.dense()[[2, 0]])
    assert torch.equal(targets[torch.tensor([1])].to("cpu").dense(), targets.dense()[1:2])
    assert torch.equal(pickle.loads(pickle.dumps(targets)).dense(), targets.dense())


def test_what_does_not_belong_together_is_refused() -> None:
    k5, k10 = (recorded_targets(LabelKind(f"marginal_smoothing_k{k}")) for k in (5, 10))
    with pytest.raises(
        InputError, match="one kind and number of classes, found marginal_smoothing_k10 of 20 classes, mar"
    ):
        concatenate([k5, k10])
    with pytest.raises(InputError, match="found none"):
        concatenate([])
    with pytest.raises(InputError, match="expected targets of 10 classes, these are of 20"):
        k5.dense(10)
    with pytest.raises(InputError, match=r"expected classes \(5, 5\) and probabilities \(5, 5\), found \(5, 10\) and"):
        SoftTargets(k10.classes, k10.probabilities, 20, LabelKind.MARGINAL_SMOOTHING_K5)
    with pytest.raises(InputError, match="hold 5 classes each, there are only 3"):
        SoftTargets(k5.classes, k5.probabilities, 3, k5.kind)
