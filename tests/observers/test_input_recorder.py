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
    for batch, message in ((NAN, "NaN"), (torch.ones(2, 3, 4, 4), "constant"), (IMAGES[:, :2], r"\(B, 3, 4, 4\)")):
        with pytest.raises(CalibrationError, match=message):
            recorder(batch)


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
