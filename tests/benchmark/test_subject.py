"""The subject: copies for everyone, one calibration per dtype, batches of the size an engine wants."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant.benchmark.subject import Subject
from fxquant.errors import InputError


def test_everyone_gets_a_copy(subject: Subject) -> None:
    one, other = subject.model(), subject.model(torch.bfloat16)
    for parameter in one.parameters():
        parameter.data.zero_()
    assert {p.dtype for p in other.parameters()} == {torch.bfloat16}
    assert any(bool(p.any()) for p in subject.model().parameters())


def test_it_is_calibrated_once_per_dtype(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    one = subject.quantized()
    monkeypatch.setattr(fxquant, "calibrate", None)
    other = subject.quantized()
    assert other is not one
    assert torch.equal(one(torch.ones(1, 3, 32, 32)), other(torch.ones(1, 3, 32, 32)))
    with pytest.raises(TypeError):
        subject.quantized(torch.bfloat16)


@pytest.mark.parametrize(("size", "count"), [(1, 12), (5, 3), (12, 1), (30, 1)])
def test_batches_have_exactly_the_size_asked_for(subject: Subject, size: int, count: int) -> None:
    batches = subject.batches(size)
    assert [len(batch) for batch in batches] == [size] * count
    seen = torch.cat(batches)
    assert torch.equal(seen[:12], subject.calibration)
    assert torch.equal(seen[12:24], subject.calibration[: len(seen[12:24])])


def test_there_must_be_images() -> None:
    with pytest.raises(InputError, match="at least one calibration image"):
        Subject(nn.Identity(), torch.zeros(0, 3, 32, 32), fxquant.recipe("minmax"))
