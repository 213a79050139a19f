"""The gate of calibration batches, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch

from fxquant.errors import CalibrationError
from fxquant.observers.input_recorder import InputRecorder

IMAGES = torch.randn(2, 3, 4, 4)
NAN = torch.full_like(IMAGES, float("nan"))


def test_counts_and_refuses_batches() -> None:
    recorder = InputRecorder("x").eval()
    assert recorder(IMAGES) is IMAGES
    assert int(recorder.batches) == 1
    assert recorder.example().shape == IMAGES.shape
    for batch, message in (
        (NAN, "NaN"),
        (-1 / torch.zeros(2, 3, 4, 4), "infinite"),
        (IMAGES[:, :2], r"\(B, 3, 4, 4\)"),
    ):
        with pytest.raises(CalibrationError, match=message):
            recorder(batch)


def test_only_images_that_are_all_one_value_are_refused() -> None:
    recorder, black = InputRecorder("x").eval(), torch.zeros(1, 3, 4, 4)
    for _ in range(2):
        recorder(black)
        with pytest.raises(CalibrationError, match=r"input 'x', all calibration batches: .* the constant 0;"):
            recorder.refuse_constant()
    recorder(black + 1)
    recorder.refuse_constant()  # two values are no constant, though each batch is
    recorder(black + 1)
    recorder.refuse_constant()
    for other in (IMAGES, torch.zeros(1, 3, 4, 4, dtype=torch.int64)):
        fresh = InputRecorder("x").eval()
        fresh(other)
        fresh.refuse_constant()
    with pytest.raises(CalibrationError, match="batch 0: expected images, found the constant 0"):
        InputRecorder("x").train()(black)


def test_a_mask_may_be_infinite_and_constant_but_not_nan() -> None:
    recorder = InputRecorder("mask", images=False, infinite=True).eval()
    recorder(-1 / torch.zeros(2, 3))
    recorder.refuse_constant()
    with pytest.raises(CalibrationError, match="'mask', calibration batch 1: expected finite pixels, found NaN"):
        recorder(torch.full((2, 3), float("nan")))
    with pytest.raises(CalibrationError, match="'mask', calibration batch 1: expected a tensor, found NoneType"):
        recorder(None)


def test_training_is_checked_by_its_first_batch_alone() -> None:
    recorder = InputRecorder("x").train()
    with pytest.raises(CalibrationError, match="NaN"):
        recorder(NAN)
    recorder(IMAGES)
    assert recorder(NAN) is NAN
    assert int(recorder.batches) == 1
    with pytest.raises(CalibrationError, match="NaN"), torch.no_grad():
        recorder(NAN)
    with pytest.raises(CalibrationError, match="NaN"):
        recorder.eval()(NAN)


def test_state_comes_back_into_a_fresh_one() -> None:
    recorder, fresh = InputRecorder("x"), InputRecorder("x")
    recorder(IMAGES)
    fresh.load_state_dict(recorder.state_dict())
    assert fresh.example().shape == IMAGES.shape
