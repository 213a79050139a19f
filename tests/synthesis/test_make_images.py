"""`synthesize` as users call it: what it gives, what it refuses, and that an interrupted run goes on as if it was none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.errors import CheckpointError, ConfigError
from fxquant.synthesis import Progress, synthesize
from tests.support.models import SIZE, small_swin, small_vit
from tests.support.tiers import keep_quick

SHORT: dict[str, Any] = {"size": SIZE, "iterations": 4, "jitter": (1, 2), "progress": False}


def made(model: nn.Module, n: int = 3, **options: Any) -> Tensor:
    return synthesize(model, n, **SHORT | options)


class Stop(Exception):
    pass


def interrupted_after(steps: int) -> Any:
    """Return a callback that raises after so many steps."""
    seen: list[Progress] = []

    def on_step(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == steps:
            raise Stop

    return on_step


@pytest.mark.parametrize("build", keep_quick([small_vit, small_swin], small_vit))
def test_images_calibrate_the_model_they_were_made_from(build: Any) -> None:
    model = build()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = made(model)
    assert found.shape == (3, 3, SIZE, SIZE)
    assert found.dtype is torch.float32
    assert not found.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    quantized = fxquant.quantize(model, [found], "minmax")
    assert fxquant.report(quantized).coverage > 0.5


def test_the_seed_alone_decides() -> None:
    model = small_vit(depth=1)
    torch.manual_seed(1)
    one = made(model)
    torch.manual_seed(2)
    assert torch.equal(one, made(fxquant.trace(model), mean=(0.5,) * 3, std=(0.5,) * 3))
    assert not torch.equal(one, made(model, seed=1))


def test_the_callers_gradient_mode_does_not_matter() -> None:
    gm = fxquant.trace(small_vit(depth=1))
    wanted = made(gm)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(made(gm), wanted)


def test_batches_are_optimised_apart() -> None:
    model = fxquant.trace(small_vit(depth=1))
    counted: list[Progress] = []
    found = made(model, batch=2, on_step=counted.append)
    assert torch.equal(found[:2], made(model, 2))
    assert [p.step for p in counted] == list(range(1, 17))
    assert {p.steps for p in counted} == {16}


def test_published_and_bfloat16_are_other_images() -> None:
    model = small_vit(depth=1)
    usual = made(model)
    assert not torch.equal(usual, made(model, published=True))
    half = made(model, dtype=torch.bfloat16)
    assert half.dtype is torch.float32
    assert not torch.equal(usual, half)
    assert made(small_vit(depth=1).bfloat16()).dtype is torch.float32


@pytest.mark.parametrize("steps", [1, 5, 8, 11])  # in each round, between two batches, in the second batch
def test_an_interrupted_run_goes_on_bit_for_bit(steps: int, tmp_path: Path) -> None:
    model, file = fxquant.trace(small_vit(depth=1)), tmp_path / "state"
    with pytest.raises(Stop):
        made(model, batch=2, checkpoint=file, on_step=interrupted_after(steps))
    rest: list[Progress] = []
    found = made(model, batch=2, checkpoint=file, on_step=rest.append)
    assert torch.equal(found, made(model, batch=2))
    assert rest[0].step == steps + 1
    assert len(rest) == 16 - steps
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_step_that_fails_half_way_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fxquant.synthesis import optimisation

    model, file = fxquant.trace(small_vit(depth=1)), tmp_path / "state"
    real, calls = optimisation.step, [0]

    def failing(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 6:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(optimisation, "step", failing)
    with pytest.raises(KeyboardInterrupt):
        made(model, checkpoint=file)
    assert torch.equal(made(model, checkpoint=file), made(model))


def test_a_finished_checkpoint_gives_its_images_at_once(tmp_path: Path) -> None:
    model, file = fxquant.trace(small_vit(depth=1)), tmp_path / "state"
    found = made(model, checkpoint=file)
    assert torch.equal(found, made(model, checkpoint=file, on_step=interrupted_after(1)))


def test_the_state_is_written_now_and_then(tmp_path: Path) -> None:
    file, written = tmp_path / "state", []

    def look(progress: Progress) -> None:
        written.append(file.exists())

    made(small_vit(depth=1), checkpoint=file, save_every=0, on_step=look)
    assert all(written)


def test_a_checkpoint_of_another_synthesis_is_refused_by_name(tmp_path: Path) -> None:
    model, file = fxquant.trace(small_vit(depth=1)), tmp_path / "state"
    with pytest.raises(Stop):
        made(model, checkpoint=file, on_step=interrupted_after(1))
    for changed, message in (
        ({"iterations": 5}, "iterations is 4 there and 5 here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"jitter": (1,)}, r"jitter is \[1, 2\] there and \[1\] here"),
        ({"lr": 0.1}, "lr is not set there and 0.1 here"),
        ({"dtype": torch.bfloat16}, "dtype is float32 there and bfloat16 here"),
        ({"batch": 1}, "batch is 3 there and 1 here"),
    ):
        with pytest.raises(CheckpointError, match=message):
            made(model, checkpoint=file, **changed)
    with torch.no_grad():
        model.head.bias += 1  # type: ignore[operator, union-attr]
    with pytest.raises(CheckpointError, match="model is"):
        made(model, checkpoint=file)


def test_impossible_arguments_are_refused() -> None:
    model = fxquant.trace(small_vit(depth=1))
    for wrong in ({"n": 0}, {"batch": 0}, {"seed": -1}, {"dtype": torch.float16}):
        with pytest.raises(ConfigError, match=r"must be a whole number of at least|expected dtype torch\.float32"):
            made(model, **wrong)
    with pytest.raises(ConfigError, match="unknown option 'iteration'"):
        made(model, iteration=3)
