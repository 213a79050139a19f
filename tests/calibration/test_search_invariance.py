"""What a search does not depend on: how batches are split, memory, modes, others' random numbers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

import fxquant
from fxquant import (
    Inputs,
    Metric,
    QuantConfig,
)
from tests.support.models import images
from tests.support.searching import NOISE, RICH, X, assert_same, calibrated, config, mlp, observers, state, vit
from tests.support.tiers import keep_quick


def test_the_same_seed_gives_the_same() -> None:
    model, x = vit(), images(6)
    one, same = (calibrated(model, RICH, x, seed=3) for _ in range(2))
    other = calibrated(model, RICH, x, seed=4)
    assert_same(one, same)
    assert any(not torch.equal(t, state(other)[name]) for name, t in state(one).items())
    torch.manual_seed(99)  # nor on anybody else's randomness, which it leaves alone
    before = torch.random.get_rng_state()
    assert_same(one, calibrated(model, RICH, x, seed=3))
    assert torch.equal(torch.random.get_rng_state(), before)


HOWS = {"scales": config(), "noise": config(NOISE, correct_bias=True, max_rows=40), "rich": RICH}


@pytest.mark.parametrize("how", keep_quick(HOWS, "noise"))
def test_batches_may_be_split(how: str) -> None:
    """Where the statistics do not depend on how, neither does what is found."""
    model, x = vit(), images(6)
    whole, split = calibrated(model, HOWS[how], x), calibrated(model, HOWS[how], x[:2], x[2:5], x[5:])
    first, second = observers(whole), observers(split)
    same = [torch.allclose(first[name].found_scale, second[name].found_scale, rtol=1e-3) for name in first]
    # Rounding of the float model may tip a tie.
    assert same.count(False) <= 1
    assert first["blocks.0.attn.qkv.input"].noise.shape == second["blocks.0.attn.qkv.input"].noise.shape


def test_pairs_with_targets() -> None:
    model, x = vit(), images(4)
    targets = torch.zeros(2, dtype=torch.int64)
    plain, pairs = calibrated(model, RICH, x[:2], x[2:]), calibrated(model, RICH, (x[:2], targets), [x[2:], targets])
    assert_same(plain, pairs)
    generator = calibrated(model, RICH, *(x.split(2)))
    assert_same(plain, generator)


@pytest.mark.parametrize(
    "how", [RICH, config(inputs_from=Inputs.QUANTISED, metric=Metric.HESSIAN)], ids=["rich", "quantised"]
)
def test_memory_changes_nothing(how: QuantConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model, x = vit(), images(4)
    spilled: list[Path] = []
    original = torch.save

    def save(value: Any, path: Path) -> None:
        spilled.append(path)
        original(value, path)

    monkeypatch.setattr(torch, "save", save)
    ample = calibrated(model, how, x[:2], x[2:])
    assert not spilled
    scarce = calibrated(model, how, x[:2], x[2:], memory=1000)
    assert spilled
    assert not list(tmp_path.iterdir())
    first, second = observers(ample), observers(scarce)
    same = [torch.allclose(first[name].found_scale, second[name].found_scale, rtol=1e-3) for name in first]
    assert same.count(False) <= 1


def test_inference_mode_and_frozen_weights() -> None:
    model, x = vit(), images(4)
    expected = calibrated(model, RICH, x)
    with torch.inference_mode():
        found = calibrated(model, RICH, x)
    assert_same(expected, found)
    assert_same(expected, calibrated(model.requires_grad_(False), RICH, x))
    with torch.no_grad():
        assert torch.equal(fxquant.convert(found)(x), fxquant.convert(expected)(x))


def test_calibrating_again_starts_from_all_statistics() -> None:
    model, x = mlp(), X
    prepared = calibrated(model, RICH, x)
    fxquant.calibrate(prepared, [2 * x], progress=False)
    observer = observers(prepared)["0.input"]
    assert int(observer.batches) == 2
    both = calibrated(model, RICH, x, 2 * x)
    torch.testing.assert_close(observer.initial_qparams(), observers(both)["0.input"].initial_qparams())
    with torch.no_grad():
        assert fxquant.convert(prepared)(x).shape == (40, 5)
