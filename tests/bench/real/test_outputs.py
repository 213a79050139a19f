"""What a model gives for many images, and how far that is from another's."""

from __future__ import annotations

import math

import pytest
import torch

from bench.real.outputs import BATCH, relative_error, run, top1
from bench.real.tasks import score_logits, score_maps, score_tokens


def test_all_images_are_run_in_order() -> None:
    images = torch.randn(2 * BATCH + 1, 3, 2, 2)
    assert torch.equal(run(lambda batch: batch.mean((2, 3)), images, "test"), images.mean((2, 3)))


def test_errors_are_relative() -> None:
    expected = torch.tensor([[3.0, 4.0]])
    assert relative_error(expected, expected + torch.tensor([[0.0, 1.0]])) == pytest.approx(0.2)
    assert relative_error(expected, expected) == 0


def test_the_largest_logit_is_the_class() -> None:
    logits = torch.tensor([[1.0, 2.0], [2.0, 1.0], [0.0, 1.0]])
    labels = torch.tensor([1, 0, 0])
    assert top1(logits, labels) == pytest.approx(200 / 3)
    row = score_logits(labels, logits, -logits)
    assert row == pytest.approx({"error": 2.0, "top1": 100 / 3, "float_top1": 200 / 3})


def test_maps_are_compared_pixel_by_pixel() -> None:
    expected = torch.tensor([0.9, 0.8, 0.1, 0.5]).view(1, 1, 2, 2)
    found = torch.tensor([0.9, 0.4, 0.1, 0.7]).view(1, 1, 2, 2)
    assert score_maps(expected, found) == pytest.approx({"mae": 0.15, "iou": 2 / 3})
    assert score_maps(expected * 0, expected * 0) == {"mae": 0, "iou": 1}


def test_tokens_are_compared_one_by_one() -> None:
    expected = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    row = score_tokens(expected, torch.tensor([[[1.0, 0.0], [2.0, 0.0]]]))
    assert row == pytest.approx({"cosine": 0.5, "sqnr_db": 10 * math.log10(5 / 8)})
