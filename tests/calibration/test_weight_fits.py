"""Fitted weights, through the public functions: what they gain, what becomes of them, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import (
    CalibrationError,
    ConfigError,
    Correction,
    Inputs,
    LayerSpec,
    Noise,
    NoisyBias,
    PerTensor,
    Placement,
    QuantConfig,
    Rounding,
    ScaleSearch,
    TensorSpec,
    WeightFit,
)
from fxquant.calibration.fitted_weight import fit_rows
from tests.support.models import Shared, images, small_vit
from tests.support.searching import ROWS, SIGNED, X, assert_same, calibrated, mlp, observers, state
from tests.support.tiers import keep_quick

NEAREST = WeightFit(Rounding.NEAREST, correction=None)
FITS = {
    "bias": WeightFit(Rounding.NEAREST),
    "affine": WeightFit(Rounding.NEAREST, correction=Correction.AFFINE),
    "clip": replace(NEAREST, clip=True),
    "gptq": WeightFit(correction=None),
    "gptaq": WeightFit(asymmetry=0.25),
    "erq": WeightFit(Rounding.ERQ),
    "ridge": WeightFit(ridge=(0.1, 1.0)),
    "all": WeightFit(asymmetry=0.25, ridge=(0.01, 0.1), clip=True, correction=Correction.AFFINE),
}
EIGHT = TensorSpec(8, signed=True, symmetric=True)


def fitted_by(fit: WeightFit | None, **options: Any) -> QuantConfig:
    return QuantConfig(LayerSpec(ROWS, EIGHT, fit=fit, **options))


def error(prepared: fx.GraphModule, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((fxquant.convert(prepared, "fake")(x) - model(x)).square().sum())


@pytest.mark.parametrize("name", FITS)
def test_every_fit_gains_on_what_it_saw(name: str) -> None:
    model = nn.Linear(12, 5).eval()
    before, after = (calibrated(model, fitted_by(fit), X[:20], X[20:]) for fit in (None, FITS[name]))
    assert error(after, model, X) < 0.99 * error(before, model, X)


@pytest.mark.parametrize("inputs_from", keep_quick(Inputs, Inputs.QUANTISED))
def test_a_whole_model_gains_and_runs_on_integers(inputs_from: Inputs) -> None:
    torch.manual_seed(1)
    model, x = small_vit(), images(8, 1)
    fit = replace(FITS["all"], inputs_from=inputs_from)
    prepared = calibrated(model, fitted_by(fit), x[:4], x[4:])
    assert error(prepared, model, x) < 0.3 * error(calibrated(model, fitted_by(None), x), model, x)
    fake, real = fxquant.convert(prepared, "fake"), fxquant.convert(prepared)
    assert all(record.int8 for record in fxquant.report(real) if record.requested)
    with torch.no_grad():
        difference = (real(x) - fake(x)).norm() / fake(x).norm()  # codes on a tie may differ
    assert float(difference) < 0.02


def test_what_is_found_is_on_the_grid() -> None:
    prepared = calibrated(mlp(), fitted_by(FITS["all"]), X)
    converted = dict(fxquant.convert(prepared, "fake").named_buffers())
    for name, observer in observers(prepared).items():
        assert bool(observer.found_weight.numel()) == bool(observer.bias_shift.numel()) == name.endswith("weight")
        if name.endswith("weight"):
            codes = converted[f"{name}_codes"]
            assert int(codes.min()) >= -8
            assert int(codes.max()) <= 7
            assert torch.equal(codes * observer.found_scale[:, None], observer.found_weight)


def test_rounding_to_nearest_and_nothing_else_changes_nothing() -> None:
    plain, fitted = (fxquant.convert(calibrated(mlp(), fitted_by(fit), X), "fake") for fit in (None, NEAREST))
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), fitted.buffers(), strict=True))


def test_the_mean_of_the_output_is_that_of_the_float_model() -> None:
    model = mlp()
    with torch.no_grad():
        for name in ("bias", "affine", "erq", "ridge", "all"):
            fake = fxquant.convert(calibrated(model, fitted_by(FITS[name]), X), "fake")
            torch.testing.assert_close(fake(X).mean(0), model(X).mean(0), rtol=1e-4, atol=1e-4)


def test_how_images_are_batched_hardly_matters() -> None:
    torch.manual_seed(0)
    model, x = small_vit(depth=1), images(8)
    found = [observers(calibrated(model, fitted_by(FITS["all"]), *x.split(size))) for size in (8, 3, 1)]
    for name, observer in found[0].items():
        for other in found[1:]:
            torch.testing.assert_close(other[name].found_weight, observer.found_weight, rtol=1e-3, atol=1e-4)


def test_little_memory_gives_the_same() -> None:
    model, batches = mlp(), X.split(10)
    ample, tight = (calibrated(model, fitted_by(FITS["gptaq"]), *batches, memory=m) for m in (2**30, 1))
    assert_same(ample, tight)


def test_fitting_again_starts_anew() -> None:
    prepared = calibrated(mlp(), fitted_by(FITS["all"]), X)
    before = state(prepared)
    fxquant.calibrate(prepared, [X], progress=False)
    for name, value in state(prepared).items():
        assert name.endswith("batches") or torch.equal(value, before[name]), name


def test_a_module_that_runs_twice_has_two_weights() -> None:
    torch.manual_seed(0)
    found = observers(calibrated(Shared(), fitted_by(FITS["gptq"]), X[:, :8]))
    weights = [o.found_weight for name, o in found.items() if name.endswith("weight")]
    assert len(weights) == 2
    assert not torch.equal(*weights)


def test_with_searched_scales_and_noise() -> None:
    torch.manual_seed(0)
    model, x = small_vit(depth=1), images(8)
    searched = {
        "search": ScaleSearch(steps=10, rounds=1),
        "noise": NoisyBias(Noise.FITTED, mean_steps=5, range_steps=5),
    }
    plain, fitted = (calibrated(model, fitted_by(fit, **searched), x) for fit in (None, FITS["bias"]))
    for name, observer in observers(fitted).items():
        assert torch.equal(observer.found_scale, observers(plain)[name].found_scale)
        assert torch.equal(observer.noise, observers(plain)[name].noise)
    assert error(fitted, model, x) < error(plain, model, x)
    fake, real = fxquant.convert(fitted, "fake"), fxquant.convert(fitted)
    with torch.no_grad():
        torch.testing.assert_close(fake(x).mean(0), model(x).mean(0), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(real(x), fake(x), rtol=1e-3, atol=1e-3)


def test_it_is_saved_with_the_prepared_model(tmp_path: Path) -> None:
    prepared = calibrated(mlp(), fitted_by(FITS["all"]), X)
    fxquant.save(prepared, tmp_path / "model.safetensors")
    loaded = fxquant.load(tmp_path / "model.safetensors")
    assert_same(prepared, loaded)
    assert torch.equal(fxquant.convert(loaded)(X), fxquant.convert(prepared)(X))
    assert_same(fxquant.calibrate(loaded, [X], progress=False), fxquant.calibrate(prepared, [X], progress=False))


def test_running_the_model_does_not_fit() -> None:
    prepared = fxquant.prepare(mlp(), fitted_by(FITS["gptq"]))
    prepared(X)
    with pytest.raises(CalibrationError, match="this recipe fits weights, which running the model does not do"):
        fxquant.convert(prepared)


@pytest.mark.parametrize("fails", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_fit_leaves_the_model_as_it_was(
    fails: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = calibrated(mlp(), fitted_by(FITS["all"]), X)
    before, calls = state(prepared), []

    def interrupted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise fails
        return fit_rows(*args)

    monkeypatch.setattr("fxquant.calibration.weight_fits.fit_rows", interrupted)
    with pytest.raises(fails):
        fxquant.calibrate(prepared, [X * 3], progress=False)
    for name, value in state(prepared).items():
        assert torch.equal(value, before[name]), name


def test_a_choice_of_ridges_needs_two_images() -> None:
    with pytest.raises(CalibrationError, match="a choice of ridges needs at least 2 images"):
        calibrated(small_vit(depth=1), fitted_by(FITS["ridge"]), images(1))


@pytest.mark.parametrize(
    ("weight", "options", "message"),
    [
        (replace(ROWS, granularity=PerTensor()), {}, "LayerSpec.fit needs weights with a symmetric scale for each row"),
        (replace(ROWS, symmetric=False), {}, "LayerSpec.fit needs weights with a symmetric scale for each row"),
        (ROWS, {"search": ScaleSearch(correct_bias=True)}, "both move the bias"),
        (ROWS, {"fit": "gptq"}, "LayerSpec.fit must be a WeightFit or None, got 'gptq'"),
    ],
)
def test_what_a_layer_refuses(weight: TensorSpec, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LayerSpec(weight, SIGNED, **({"fit": NEAREST} | options))


def test_a_float_weight_is_not_fitted_and_a_placement_does_not_go_with_it() -> None:
    prepared = calibrated(mlp(), QuantConfig(LayerSpec(None, SIGNED, fit=NEAREST)), X)
    assert not any(o.refined for o in observers(prepared).values())
    with pytest.raises(ConfigError, match=r"LayerSpec.fit searches operands"):
        QuantConfig(LayerSpec(ROWS, None, fit=NEAREST), placement=Placement())
