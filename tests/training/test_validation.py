"""Accuracy on validation images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxquant.training.interruption import Interruption, Stop
from fxquant.training.validation import Accuracy, measure_accuracy

CPU = torch.device("cpu")


class Answers(nn.Module):
    """Gives its input as logits, wrong ones in training mode."""

    def forward(self, logits: Tensor) -> Tensor:
        return -logits if self.training else logits


def batches(classes: int) -> list[tuple[Tensor, Tensor]]:
    labels = torch.arange(classes)
    logits = torch.eye(classes) + torch.arange(classes) / 100
    labels[0] = 1  # seventh of eight, third of four
    return [(logits[:2], labels[:2]), (logits[2:], labels[2:])]


def test_hits_are_counted_in_eval_mode_and_the_mode_is_put_back() -> None:
    model = Answers().train()
    found = measure_accuracy(model, batches(8), CPU, "validate")
    assert (found.top1, found.top5, found.count) == (87.5, 87.5, 8)
    assert str(found) == "top-1 87.50 %, top-5 87.50 %"
    assert model.training
    assert measure_accuracy(model, batches(4), CPU, "validate") == Accuracy(75.0, None, 4)


def test_a_rank_without_images_counts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def add_the_other_rank(own: Tensor) -> Any:
        return own + torch.tensor([300.0, 0.0, 4.0, 0.0])

    monkeypatch.setattr("fxquant.training.validation.sum_over_ranks", add_the_other_rank)
    assert measure_accuracy(Answers(), [], CPU, "validate") == Accuracy(75.0, None, 4)


def test_it_stops_when_asked() -> None:
    interruption = Interruption()
    interruption.asked = True
    with pytest.raises(Stop):
        measure_accuracy(Answers(), batches(8), CPU, "validate", interruption)
