"""Reconstruction of small models."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import CalibrationError, CheckpointError, ConfigError, UnsupportedGraphError
from fxquant.reconstruction import over_blocks
from fxquant.reconstruction.over_blocks import BlockRun
from fxquant.reconstruction.reconstruct import run_reconstruction
from fxquant.reconstruction.reconstruction_options import ReconstructionOptions
from fxquant.reconstruction.train_block import Trainer
from tests.support.models import Conditioned, conditions, images, small_vit

BATCHES = [images(6, 1), images(6, 2)]
OPTIONS: dict[str, Any] = {"iterations": 12, "batch_size": 4, "weight_lr": 1e-3, "scale_lr": 1e-2}


def calibrated(model: nn.Module, recipe: str = "minmax", bits: int = 4, **options: Any) -> fx.GraphModule:
    prepared = fxquant.prepare(model, fxquant.recipe(recipe, bits, bits, attention=True, **options), BATCHES[0])
    return fxquant.calibrate(prepared, BATCHES, progress=False)


def tiny(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return small_vit(embed_dim=16, **options)


def error(prepared: fx.GraphModule, model: nn.Module) -> float:
    """Return the relative error of the logits of other images."""
    test = images(16, 9)
    wanted = model(test)
    return float(((fxquant.convert(prepared, "fake")(test) - wanted).norm() / wanted.norm()).detach())


def state(prepared: fx.GraphModule) -> dict[str, Tensor]:
    return copy.deepcopy(prepared.state_dict())


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_block_and_the_whole_model_come_closer() -> None:
    model = tiny()
    prepared = calibrated(model)
    weights = {name: p.clone() for name, p in prepared.named_parameters()}
    before = error(prepared, model)
    outcomes = run_reconstruction(prepared, BATCHES, ReconstructionOptions(**OPTIONS), progress=False)
    assert len(outcomes) == 4
    assert all(o.after < o.before for o in outcomes if o.kept)
    assert sum(o.kept for o in outcomes) >= 3
    assert error(prepared, model) < 0.9 * before
    assert all(torch.equal(weights[name], p) for name, p in prepared.named_parameters())
    assert all(p.grad is None for p in prepared.parameters())


def test_the_integer_model_is_the_simulated_one() -> None:
    prepared = calibrated(tiny(), bits=8)
    fxquant.reconstruct(prepared, BATCHES, progress=False, **OPTIONS | {"weight_lr": 1e-4})
    observer = prepared.get_submodule("observers.head_weight")
    assert (observer.found_weight.shape, observer.bias_shift.shape) == ((10, 16), (10,))
    batch = images(4, 9)
    torch.testing.assert_close(
        fxquant.convert(prepared)(batch), fxquant.convert(prepared, "fake")(batch), atol=0.02, rtol=0
    )


def test_a_block_that_gets_worse_stays_as_it_was() -> None:
    prepared = calibrated(tiny())
    before = state(prepared)
    wild = ReconstructionOptions(iterations=2, batch_size=4, weight_lr=10.0, scale_lr=3.0)
    outcomes = run_reconstruction(prepared, BATCHES, wild, progress=False)
    assert not any(o.kept for o in outcomes)
    assert equal(before, state(prepared))


def test_without_rounding_errors_losses_are_zero_and_nothing_changes() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4) * 127)  # type: ignore[operator]
    batches = [torch.randint(0, 256, (8, 4), generator=torch.Generator().manual_seed(0)).float()]
    batches[0][0, :2] = torch.tensor([0.0, 255.0])
    prepared = fxquant.prepare(model.eval(), fxquant.recipe("minmax", head=True), batches[0])
    fxquant.calibrate(prepared, batches, progress=False)
    next(m for n, m in prepared.named_modules() if n.endswith("0_weight")).found_scale = torch.ones(4)
    before = state(prepared)
    (outcome,) = run_reconstruction(prepared, batches, ReconstructionOptions(iterations=2), progress=False)
    assert (outcome.before, outcome.after, outcome.kept) == (0, 0, False)
    assert equal(before, state(prepared))


def test_it_starts_from_weights_that_calibration_found() -> None:
    model = tiny(depth=1)
    prepared = calibrated(model)
    observer = prepared.get_submodule("observers.head_weight")
    observer.found_weight = model.head.weight.detach() * 1.01  # type: ignore[union-attr, operator, assignment]
    fxquant.reconstruct(prepared, BATCHES, progress=False, **OPTIONS | {"weight_lr": 0.0, "iterations": 1})
    assert torch.equal(observer.found_weight, model.head.weight * 1.01)  # type: ignore[union-attr, operator, arg-type]


def test_twins_keep_their_scales_and_the_rest_is_trained() -> None:
    model = tiny(depth=1)
    prepared = calibrated(model, "ptq4vit")
    twins = {n: b.clone() for n, b in prepared.named_buffers() if "fc2_input" in n}
    before = error(prepared, model)
    fxquant.reconstruct(prepared, BATCHES, progress=False, **OPTIONS)
    assert all(torch.equal(twins[n], b) for n, b in prepared.named_buffers() if n in twins)
    assert error(prepared, model) < before


def test_models_of_several_inputs_take_tuples() -> None:
    batches = [conditions(batch=6, seed=seed) for seed in range(2)]
    prepared = fxquant.prepare(Conditioned().eval(), fxquant.recipe("minmax", 4, 4, attention=True), batches[0])
    fxquant.calibrate(prepared, batches, progress=False)
    outcomes = run_reconstruction(prepared, batches, ReconstructionOptions(**OPTIONS), progress=False)
    assert any(o.after < o.before for o in outcomes)


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, file = tiny(), tmp_path / "state.safetensors"
    whole, halved = calibrated(model), calibrated(model)
    fxquant.reconstruct(whole, BATCHES, progress=False, **OPTIONS)
    before = state(halved)
    monkeypatch.setattr(over_blocks, "Trainer", DyingTrainer)
    with pytest.raises(KeyboardInterrupt):
        fxquant.reconstruct(halved, BATCHES, progress=False, checkpoint=file, **OPTIONS)
    assert equal(before, state(halved))
    monkeypatch.setattr(over_blocks, "Trainer", LateTrainer)
    fxquant.reconstruct(halved, BATCHES, progress=False, checkpoint=file, **OPTIONS)
    assert equal(state(whole), state(halved))


class DyingTrainer(Trainer):
    """Is interrupted in the third block."""

    def fit(self, label: str, learned: Any, measure: Any, index: int, step: Any) -> Any:
        if index == 2:
            raise KeyboardInterrupt
        return super().fit(label, learned, measure, index, step)


class LateTrainer(Trainer):
    """Trains no block before the third."""

    def fit(self, label: str, learned: Any, measure: Any, index: int, step: Any) -> Any:
        assert index >= 2
        return super().fit(label, learned, measure, index, step)


def test_a_loss_without_a_value_is_not_kept_and_can_be_written(tmp_path: Path) -> None:
    prepared, file = calibrated(tiny(depth=1)), tmp_path / "state.safetensors"
    wild = ReconstructionOptions(iterations=2, batch_size=4, weight_lr=1e30, scale_lr=1e3)
    outcomes = run_reconstruction(copy.deepcopy(prepared), BATCHES, wild, file, progress=False)
    assert not any(o.kept for o in outcomes)
    assert repr(run_reconstruction(prepared, BATCHES, wild, file, progress=False)) == repr(outcomes)
    assert any(o.after != o.after for o in outcomes)


def test_a_block_that_has_nothing_to_train_is_passed_over() -> None:
    prepared = calibrated(tiny(depth=1), "itpn")
    outcomes = run_reconstruction(prepared, BATCHES, ReconstructionOptions(**OPTIONS), progress=False)
    assert not outcomes[-1].kept
    assert outcomes[-1].before == outcomes[-1].after == 0


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    prepared, file = calibrated(tiny(depth=1)), tmp_path / "state.safetensors"
    fxquant.reconstruct(copy.deepcopy(prepared), BATCHES, progress=False, checkpoint=file, iterations=1)
    for change, named in (({"iterations": 2}, "iterations"), ({"iterations": 1, "seed": 5}, "seed")):
        with pytest.raises(CheckpointError, match=f"{named} is . there and . here"):
            fxquant.reconstruct(copy.deepcopy(prepared), BATCHES, progress=False, checkpoint=file, **change)
    with pytest.raises(CheckpointError, match="images is"):
        fxquant.reconstruct(copy.deepcopy(prepared), BATCHES[:1], progress=False, checkpoint=file, iterations=1)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot read"):
        fxquant.reconstruct(prepared, BATCHES, progress=False, checkpoint=file, iterations=1)


def test_what_cannot_be_reconstructed_is_refused() -> None:
    model = tiny(depth=1)
    prepared = calibrated(model)
    untouched = fxquant.prepare(model, fxquant.recipe("minmax"), BATCHES[0])
    for wrong in (model, fxquant.trace(model), fxquant.convert(prepared)):
        with pytest.raises(UnsupportedGraphError, match="reconstruct expected a calibrated graph"):
            fxquant.reconstruct(wrong, BATCHES, progress=False)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedGraphError, match="prepare_qat"):
        fxquant.reconstruct(fxquant.prepare_qat(model, example_inputs=BATCHES[0]), BATCHES, progress=False)
    with pytest.raises(CalibrationError, match="never calibrated"):
        fxquant.reconstruct(untouched, BATCHES, progress=False)
    with pytest.raises(CalibrationError, match="found none"):
        fxquant.reconstruct(prepared, [], progress=False)
    with pytest.raises(CalibrationError, match="at least 2 images"):
        fxquant.reconstruct(prepared, [images(1)], progress=False)
    with pytest.raises(ConfigError, match="unknown option 'steps'"):
        fxquant.reconstruct(prepared, BATCHES, progress=False, steps=3)
    noisy = calibrated(model, "noisyquant")
    with pytest.raises(UnsupportedGraphError, match="a noisy bias cannot be reconstructed"):
        fxquant.reconstruct(noisy, BATCHES, progress=False)
    half = fxquant.prepare(tiny(depth=1).bfloat16(), fxquant.recipe("minmax"), BATCHES[0].bfloat16())
    with pytest.raises(UnsupportedGraphError, match="expected a float32 model"):
        fxquant.reconstruct(half, BATCHES, progress=False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": 0},
        {"batch_size": 1.5},
        {"weight_lr": -1.0},
        {"local_weight": "2"},
        {"held_out": 1},
        {"cosine": 3},
    ],
)
def test_options_that_cannot_be_meant_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ReconstructionOptions(**wrong)


def test_the_defaults_are_those_published() -> None:
    options = ReconstructionOptions()
    assert (options.iterations, options.batch_size, options.local_weight) == (3000, 32, 2)
    assert (options.step_of_weight(0.5), options.step_of_scales, options.decays) == (2e-5, 2e-4, False)


def test_short_runs_take_longer_steps() -> None:
    short = ReconstructionOptions(iterations=120)
    assert short.step_of_weight(0.01) == pytest.approx(1e-4)
    assert short.step_of_scales == pytest.approx(1e-3)
    assert short.decays


def test_all_blocks_are_reverted_where_the_whole_model_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(depth=1)
    prepared = calibrated(model)
    before, errors = state(prepared), iter([1.0, 2.0])
    monkeypatch.setattr(BlockRun, "whole_error", lambda *_: next(errors))
    outcomes = run_reconstruction(prepared, BATCHES, ReconstructionOptions(**OPTIONS), progress=False)
    assert any(o.after < o.before for o in outcomes), "blocks were trained"
    assert not any(o.kept for o in outcomes)
    assert equal(before, state(prepared))
