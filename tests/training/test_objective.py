"""The loss and its parts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fxquant.distillation import LabelKind, SoftTargets, soft_cross_entropy
from fxquant.training import TrainingOptions
from fxquant.training.bit_budget import bit_operations
from fxquant.training.objective import Objective
from fxquant.training.regulariser import variation_regulariser
from tests.support.models import images
from tests.support.trained_models import prepared_vit

LOGITS = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([1, 2, 3, 4])


def test_the_regulariser_follows_its_ramp_and_can_be_off() -> None:
    prepared = prepared_vit()
    objective = Objective(prepared, TrainingOptions(epochs=100, regulariser_weight=0.02))
    weights = [objective.weight(epoch) for epoch in (0, 24, 25, 62, 100)]
    assert weights[:3] == [0, 0, 0]
    assert 0 < weights[3] < weights[4] == pytest.approx(0.02)
    assert Objective(prepared, TrainingOptions(regulariser=False)).weight(149) == 0


def test_hard_labels_and_the_regulariser_add_up() -> None:
    prepared = prepared_vit()
    objective = Objective(prepared, TrainingOptions())
    loss, parts = objective(LOGITS.bfloat16(), LABELS, 0.01)
    task, variation = F.cross_entropy(LOGITS.bfloat16().float(), LABELS), variation_regulariser(prepared)
    torch.testing.assert_close(loss, task + 0.01 * variation)
    torch.testing.assert_close(parts, torch.stack((task, variation.detach(), torch.zeros(()))))
    assert objective(LOGITS, LABELS, 0.0)[1][1] == 0


def test_soft_targets_have_their_own_cross_entropy() -> None:
    targets = SoftTargets(LABELS[:, None], torch.full((4, 1), 0.7), 10, LabelKind.SMOOTHING)
    loss, _ = Objective(prepared_vit(), TrainingOptions())(LOGITS, targets, 0.0)
    torch.testing.assert_close(loss, soft_cross_entropy(LOGITS, targets))


def test_what_is_above_the_budget_counts_squared_and_moves_bit_widths() -> None:
    prepared = prepared_vit(learned_bits=True)
    with torch.no_grad():
        prepared(images())
    operations = float(bit_operations(prepared).detach())
    options = TrainingOptions(budget=operations / 2, budget_weight=12 / operations**2)
    loss, parts = Objective(prepared, options)(LOGITS, LABELS, 0.0)
    assert float(parts[2]) == pytest.approx(operations)
    assert float(loss.detach() - parts[0]) == pytest.approx(3, rel=1e-4)
    torch.autograd.backward(loss)
    bits = [p for name, p in prepared.named_parameters() if name.endswith("weight.bits")]
    assert bits
    assert all(p.grad is not None and bool((p.grad > 0).all()) for p in bits)
