"""Soft cross entropy: value and gradient are those of dense targets, which it does not make."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fxquant.distillation import LabelKind, SoftTargets, soft_cross_entropy
from fxquant.errors import InputError
from tests.support.soft_labels import KINDS, RECORDED, recorded_targets


def dense_loss(logits: Tensor, targets: SoftTargets) -> Tensor:
    return -(targets.dense().to(logits.dtype) * logits.log_softmax(1)).sum(1).mean()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not LabelKind.ORI])
def test_loss_and_gradient_are_as_recorded(kind: LabelKind) -> None:
    logits = RECORDED["logits"].clone().requires_grad_()
    loss = soft_cross_entropy(logits, recorded_targets(kind))
    (grad,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, RECORDED[f"labels/{kind.value}/loss"], rtol=1e-5, atol=0)
    recorded = RECORDED[f"labels/{kind.value}/grad_logits"]
    assert (grad - recorded).norm() <= 1e-6 * recorded.norm()


@given(
    st.sampled_from(KINDS), st.integers(10, 30), st.integers(1, 6), st.integers(0, 99), st.sampled_from([0.0, 100.0])
)
def test_loss_and_gradient_are_those_of_dense_targets(
    kind: LabelKind, classes: int, rows: int, seed: int, offset: float
) -> None:
    torch.manual_seed(seed)
    p = (3 * torch.randn(rows, classes)).softmax(1)
    top = p.topk(kind.kept)
    stored = {LabelKind.ORI: p, LabelKind.HARD: torch.ones(rows, 1)}.get(kind, top.values)
    targets = SoftTargets(top.indices, stored, classes, kind)
    logits = (torch.randn(rows, classes, dtype=torch.float64) + offset).requires_grad_()
    loss, dense = soft_cross_entropy(logits, targets), dense_loss(logits, targets)
    torch.testing.assert_close(loss, dense, rtol=1e-6, atol=1e-6)
    grads = (torch.autograd.grad(value, logits)[0] for value in (loss, dense))
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-6)


def test_half_precision_logits_give_a_float32_loss() -> None:
    targets = recorded_targets(LabelKind.MARGINAL_SMOOTHING_K5)
    logits = RECORDED["logits"].bfloat16()
    loss = soft_cross_entropy(logits, targets)
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss, soft_cross_entropy(logits.float(), targets))


def test_other_rows_or_classes_are_refused() -> None:
    targets = recorded_targets(LabelKind.HARD)
    for shape in ((4, 20), (5, 10), (5,)):
        with pytest.raises(InputError, match=r"expected logits of shape \(5, 20\).*found \("):
            soft_cross_entropy(torch.zeros(shape), targets)
    with pytest.raises(InputError, match=r"for 0 targets"):
        soft_cross_entropy(torch.zeros(0, 20), targets[:0])
