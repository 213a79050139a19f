"""What a search refuses, and what it leaves behind when it is interrupted."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxquant
from fxquant import (
    CalibrationError,
    ConfigError,
    LayerSpec,
    NoisyBias,
    PerChannel,
    QuantConfig,
    ScaleSearch,
    TensorSpec,
)
from fxquant.calibration import searches
from tests.support.models import images
from tests.support.searching import (
    NOISE,
    QUICK,
    RICH,
    ROWS,
    SIGNED,
    X,
    assert_same,
    calibrated,
    config,
    mlp,
    observers,
    state,
    vit,
)
from tests.support.tiers import keep_quick


@pytest.mark.parametrize("noise", [None, NOISE])
def test_a_search_is_more_than_running_the_model(noise: NoisyBias | None) -> None:
    for target in ("fake", "int8"):
        prepared = fxquant.prepare(mlp(), config(noise))
        message = (
            "this recipe searches scales, which running the model does not do: run fxquant.calibrate(prepared, batches)"
        )
        for _ in range(2):
            with pytest.raises(CalibrationError, match=re.escape(message)):
                fxquant.convert(prepared, target)  # type: ignore[arg-type]
            prepared(X)
        fxquant.convert(fxquant.calibrate(prepared, [X], progress=False), target)  # type: ignore[arg-type]


def test_noise_alone_is_a_search_too() -> None:
    how = QuantConfig(LayerSpec(ROWS, SIGNED, noise=NOISE))
    prepared = fxquant.prepare(mlp(), how)
    prepared(X)
    with pytest.raises(CalibrationError, match="this recipe searches"):
        fxquant.convert(prepared)
    prepared = calibrated(mlp(), how, X)
    for name, observer in observers(prepared).items():
        assert bool(observer.noise.numel()) == name.endswith("input")
        torch.testing.assert_close(observer.calculate_qparams().scale, observer.initial_qparams().scale)
    assert fxquant.convert(prepared)(X).shape == (40, 5)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "expected at least one calibration batch, found none"),
        ([X[:0]], "batch 0: expected images, found an empty batch of shape (0, 12)"),
        ([X, X[:0]], "batch 1: expected images, found an empty batch of shape (0, 12)"),
        ([X * float("nan")], "batch 0: expected finite pixels, found NaN values"),
        ([X, X * float("inf")], "batch 1: expected finite pixels, found infinite values"),
        ([X, "images"], "batch 1: expected a tensor of images, an (images, targets) pair or a mapping by the names"),
        ([X[:, :11]], "batch 0: the model does not accept an input of shape (40, 11)"),
        ([X, X[:, :11]], "batch 1: expected shape (B, 12) as in the first batch, found (40, 11)"),
    ],
)
def test_bad_batches_leave_nothing_behind(batches: list[Any], message: str) -> None:
    prepared = fxquant.prepare(mlp(), RICH)
    before = state(prepared)
    with pytest.raises(CalibrationError, match=re.escape(message)):
        fxquant.calibrate(prepared, batches, progress=False)
    after = state(prepared)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_granularities_that_cannot_be_searched() -> None:
    channels = LayerSpec(ROWS, TensorSpec(granularity=PerChannel(1)), search=ScaleSearch())
    message = "scales of granularity PerChannel(axis=1) cannot be searched for an image: use PerTensor, or search=None"
    prepared = fxquant.prepare(nn.Conv2d(3, 4, 2, 2).eval(), QuantConfig(channels))
    before = state(prepared)
    with pytest.raises(ConfigError, match=re.escape(message)):
        fxquant.calibrate(prepared, [torch.randn(2, 3, 8, 8)], progress=False)
    assert all(torch.equal(t, state(prepared)[name]) for name, t in before.items())


def test_nothing_to_search() -> None:
    assert calibrated(nn.Identity(), config(), X) is not None


@pytest.mark.parametrize(
    ("error", "name", "again"),
    keep_quick(
        product([KeyboardInterrupt, RuntimeError], ["search_scales", "search_noise"], [False, True]),
        *((KeyboardInterrupt, "search_scales", True), (RuntimeError, "search_noise", False)),
    ),
)
def test_an_interrupted_search_leaves_everything_as_it_was(
    error: type[BaseException], name: str, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model, x = vit(), images(4)
    prepared = calibrated(model, RICH, images(2, 1)) if again else fxquant.prepare(model, RICH)
    before, modules = state(prepared), dict(prepared.named_modules())
    calls: list[None] = []
    original: Callable[..., Any] = getattr(searches, name)

    def interrupted(*arguments: Any) -> Any:
        calls.append(None)
        if len(calls) == 3:
            raise error
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(searches, name, interrupted)
        with pytest.raises(error):
            fxquant.calibrate(prepared, [x], progress=False, memory=1000)
    after = state(prepared)
    assert after.keys() == before.keys()
    for key, value in before.items():
        assert torch.equal(after[key], value), key
    assert dict(prepared.named_modules()) == modules
    assert not list(tmp_path.iterdir())
    # And calibration can be begun anew.
    fresh = calibrated(model, RICH, images(2, 1)) if again else fxquant.prepare(model, RICH)
    for each in (prepared, fresh):
        fxquant.calibrate(each, [x], progress=False)
    assert_same(prepared, fresh)


def test_observers_of_torch_ao_are_searched_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    ao = pytest.importorskip("torch.ao.quantization")
    torch_ao = pytest.importorskip("fxquant.config.torch_ao")
    spec = torch_ao.TorchAo(ao.MovingAverageMinMaxObserver.with_args(averaging_constant=0.5)).spec()
    how = QuantConfig(LayerSpec(activation=spec, search=ScaleSearch(**(QUICK | {"smallest": 0.2, "largest": 0.3}))))
    prepared = fxquant.prepare(mlp(), how)
    before = state(prepared)
    with monkeypatch.context() as patch:
        patch.setattr(searches, "search_scales", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fxquant.calibrate(prepared, [X], progress=False)
    after = state(prepared)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    fxquant.calibrate(prepared, [X, 2 * X], progress=False)
    observer: Any = observers(prepared)["0.input"]
    # Of torch.ao's own range, which is not the running one.
    initial, _ = observer.inner.calculate_qparams()
    torch.testing.assert_close(observer.initial_qparams().scale, initial[0])
    ratio = observer.calculate_qparams().scale / initial[0]
    assert 0.19 < float(ratio) < 0.31


def test_progress_names_the_products(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxquant.progress.draws_bars", lambda: True)
    calibrated(mlp(), config(), X, progress=True)
    shown = capsys.readouterr().err
    assert "calibrate 0" in shown
    assert "calibrate 2" in shown
    assert "2/2" in shown
    calibrated(mlp(), config(), X)
    assert capsys.readouterr() == ("", "")


def test_the_model_is_left_alone() -> None:
    model = vit()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    prepared = fxquant.prepare(model, RICH)
    weights = {name: t.clone() for name, t in prepared.named_parameters()}
    assert fxquant.calibrate(prepared, [images(2)], progress=False) is prepared
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(torch.equal(t, weights[name]) for name, t in prepared.named_parameters())
    assert not prepared.training
