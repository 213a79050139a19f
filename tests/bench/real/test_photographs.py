"""Crops of photographs: none in two groups, the same each time."""

from __future__ import annotations

from itertools import chain

import pytest
import torch

from bench.real import photographs
from bench.real.photographs import PHOTOGRAPHS, load_photographs
from fxquant.errors import InputError
from tests.bench.real.needs import needs_real


def test_no_photograph_is_in_two_groups() -> None:
    names = list(chain.from_iterable(PHOTOGRAPHS.values()))
    assert len(set(names)) == len(names)


@pytest.mark.long
@needs_real
@pytest.mark.parametrize("group", PHOTOGRAPHS)
def test_crops_follow_the_seed(group: str) -> None:
    crops = load_photographs(group, 28, 8)
    assert crops.shape == (8, 3, 28, 28)
    assert crops.dtype == torch.float32
    assert 0.3 < crops.std() < 2
    state = torch.get_rng_state()
    assert torch.equal(crops, load_photographs(group, 28, 8))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(crops, load_photographs(group, 28, 8, seed=1))


def test_what_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="unknown group 'test': expected one of calibration, development, held-out"):
        load_photographs("test", 28, 1)
    monkeypatch.setattr(photographs, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"camera\.png in the package skimage.*fxquant\[real\]"):
        load_photographs("calibration", 28, 1)
