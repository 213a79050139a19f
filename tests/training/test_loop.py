"""Training in one process: it learns, goes on where it was, and stops where it cannot."""

from __future__ import annotations

import copy
import csv
import math
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import CheckpointError, ConfigError, InputError, UnsupportedGraphError
from fxquant.errors import TrainingError
from fxquant.training import TrainingData, TrainingOptions, TrainingResult, load_trained, train
from fxquant.training.state_file import read_state
from tests.support.models import images, small_vit
from tests.support.trained_models import MemoryImages, memory_data, prepared_vit, same_state

OPTIONS = TrainingOptions(epochs=4, batch_size=4, lr=2e-3, ema_decay=0.8, freeze_threshold=0.3, clip_grad=5.0)


def run(
    folder: Path | None,
    dataset: MemoryImages | None = None,
    options: TrainingOptions = OPTIONS,
    drop_path: float = 0.1,
    **arguments: Any,
) -> TrainingResult:
    return train(
        prepared_vit(drop_path),
        memory_data(dataset),
        options,
        folder=folder,
        checkpoint_minutes=0,
        progress=False,
        **arguments,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingResult, Path]:
    """Return a training without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "new"
    return run(folder), folder


class Eventful(MemoryImages):
    """Lets something happen when the n-th image is read."""

    def __init__(self, at: int, event: Any) -> None:
        super().__init__()
        self.at, self.event = at, event

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.at -= 1
        if not self.at:
            self.event()
        return super().__getitem__(index)


def test_it_learns_and_the_int8_model_says_the_same() -> None:
    # Larger rates throw the least steps back and forth between their bounds, and the end is chance.
    options = TrainingOptions(epochs=40, batch_size=6, lr=2e-3)
    result = run(None, options=options, drop_path=0.0)
    assert result.averaged is None
    assert result.history[-1]["loss"] < 0.65 * result.history[0]["loss"]
    assert result.history[-1]["top1"] >= 40
    assert not result.prepared.training
    data = MemoryImages()
    with torch.no_grad():
        trained, converted = result.prepared(data.images), fxquant.convert(result.prepared)(data.images)
    assert (trained.argmax(1) == converted.argmax(1)).float().mean() > 0.9


def test_what_is_kept(whole: tuple[TrainingResult, Path]) -> None:
    result, folder = whole
    assert sorted(p.name for p in folder.iterdir()) == ["best.pt", "checkpoint.previous.pt", "checkpoint.pt", "log.csv"]
    with (folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert [float(row["lr"]) for row in rows] == pytest.approx(
        [1e-3 * (1 + math.cos(math.pi * e / 4)) for e in range(4)], rel=1e-4
    )
    assert float(rows[0]["lambda"]) == 0 < float(rows[3]["lambda"]) < 0.01
    for name in ("loss", "top1", "ema_top1", "top5", "images_per_second", "oscillating", "frozen"):
        assert all(row[name] for row in rows), name
    best = max(float(row["ema_top1"]) for row in rows)
    saved = read_state(folder / "best.pt")["progress"]["history"]
    assert saved[-1]["ema_top1"] == best
    assert len(saved) == 1 + next(i for i, row in enumerate(rows) if float(row["ema_top1"]) == best)
    assert result.averaged is not None


def test_a_checkpoint_can_be_loaded_without_training(whole: tuple[TrainingResult, Path]) -> None:
    result, folder = whole
    prepared = prepared_vit()
    with torch.no_grad():
        prepared.eval()(MemoryImages().images[:8])
    averaged = load_trained(prepared, folder / "checkpoint.pt")
    assert same_state(prepared, result.prepared)
    assert averaged is not None
    assert result.averaged is not None
    assert same_state(averaged, result.averaged)
    with pytest.raises(CheckpointError, match=r"quantisers is .* there and .* of 3 bits"):
        load_trained(prepared_vit(w_bits=3), folder / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="model is not set there and other here"):
        load_trained(prepared, folder / "checkpoint.pt", {"model": "other"})


def equal(result: TrainingResult, other: TrainingResult) -> bool:
    assert result.averaged is not None
    assert other.averaged is not None
    times = ("seconds", "images_per_second")
    one, two = ([{k: v for k, v in row.items() if k not in times} for row in r.history] for r in (result, other))
    return one == two and same_state(result.prepared, other.prepared) and same_state(result.averaged, other.averaged)


def test_killed_between_checkpoint_and_table_it_writes_the_table_later(
    whole: tuple[TrainingResult, Path], tmp_path: Path
) -> None:
    shutil.copy(whole[1] / "checkpoint.pt", tmp_path)
    run(tmp_path, resume=True)
    assert (tmp_path / "log.csv").read_text() == (whole[1] / "log.csv").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_goes_on_later_bit_for_bit(
    number: signal.Signals, whole: tuple[TrainingResult, Path], tmp_path: Path
) -> None:
    at = random.Random(int(number)).randrange(1, 48)
    stopping = Eventful(at, lambda: os.kill(os.getpid(), number))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stopping)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    assert equal(run(tmp_path, resume=True), whole[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(run(tmp_path, resume=True), whole[0])  # nothing is left to do


def test_a_failure_between_checkpoints_loses_only_what_came_after(
    whole: tuple[TrainingResult, Path], tmp_path: Path
) -> None:
    def fail() -> None:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        run(tmp_path, Eventful(30, fail))
    (tmp_path / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"--resume .*checkpoint\.previous\.pt goes on from there"):
        run(tmp_path, resume=True)
    assert equal(run(tmp_path, resume=tmp_path / "checkpoint.previous.pt"), whole[0])


def test_worker_processes_change_nothing(whole: tuple[TrainingResult, Path]) -> None:
    assert equal(run(None, workers=1), whole[0])


def test_another_training_is_refused(whole: tuple[TrainingResult, Path]) -> None:
    folder = whole[1]
    with pytest.raises(CheckpointError, match="holds a training already: --resume goes on"):
        run(folder)
    other = TrainingOptions(epochs=4, batch_size=4, lr=1e-3, ema_decay=0.8, freeze_threshold=0.3, clip_grad=5.0)
    with pytest.raises(CheckpointError, match=r"holds another training: lr is 0\.002 there and 0\.001 here"):
        run(folder, options=other, resume=True)
    with pytest.raises(CheckpointError, match="images is 12 there and 11 here"):
        run(folder, MemoryImages(11), resume=True)
    with pytest.raises(CheckpointError, match="model is not set there and deit here"):
        run(folder, resume=True, identity={"model": "deit"})
    with pytest.raises(ConfigError, match="nothing to resume without a folder"):
        run(None, resume=True)


def test_after_a_restart_by_torchrun_it_goes_on_unasked(
    whole: tuple[TrainingResult, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert equal(run(whole[1]), whole[0])


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_what_was_good(tmp_path: Path) -> None:
    prepared = prepared_vit()

    def spoil() -> None:
        with torch.no_grad():
            prepared.get_parameter("head.bias").fill_(math.nan)

    message = r"epoch 1, step 2 of 3: loss nan, .*gradient norm nan; .*checkpoint\.pt is from before"
    data = memory_data(Eventful(18, spoil))
    with pytest.raises(TrainingError, match=message):
        train(prepared, data, OPTIONS, folder=tmp_path, checkpoint_minutes=0, progress=False)
    saved = read_state(tmp_path / "checkpoint.pt")
    assert saved["progress"]["step"] == 1
    assert all(bool(t.isfinite().all()) for t in saved["model"].values())


def test_bfloat16_and_no_measurement(tmp_path: Path) -> None:
    options = TrainingOptions(epochs=1, batch_size=6, bf16=True)
    dtypes: list[torch.dtype] = []
    prepared = prepared_vit(0.0)
    prepared.register_forward_hook(lambda _, __, out: dtypes.append(out.dtype))
    data = TrainingData(MemoryImages(), MemoryImages().images[:8])
    result = train(prepared, data, options, folder=tmp_path, progress=False)
    assert torch.bfloat16 in dtypes
    assert result.history[0]["top1"] is None
    assert not (tmp_path / "best.pt").exists()


def test_learned_bit_widths_meet_a_budget() -> None:
    options = TrainingOptions(epochs=8, batch_size=4, lr=0.05, budget=1e-6, budget_weight=1e6)
    prepared: fx.GraphModule = prepared_vit(0.0, learned_bits=True)
    result = train(prepared, memory_data(), options, progress=False)
    assert result.history[-1]["bit_operations"] < result.history[0]["bit_operations"]


@pytest.mark.parametrize(
    ("made", "found"),
    [
        (lambda: small_vit(), "VisionTransformer that fxquant did not make"),
        (lambda: fxquant.trace(small_vit()), "at stage float"),
        (lambda: fxquant.prepare(small_vit(), None, images()), "without learned steps"),
        (lambda: fxquant.prepare(small_vit(), fxquant.recipe("vvtq"), images()), "from fxquant.prepare, which folds"),
        (lambda: copy.deepcopy(fxquant.prepare(small_vit(), fxquant.recipe("vvtq"), images())), "which folds"),
    ],
)
def test_a_graph_that_is_not_to_be_trained_is_refused(made: Any, found: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedGraphError, match=f"expected a graph from fxquant.prepare_qat, found .*{found}"):
        train(made(), memory_data(), OPTIONS, folder=tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


def test_a_graph_that_was_stored_is_trained(tmp_path: Path) -> None:
    fxquant.save(prepared_vit(norm=True), tmp_path / "prepared.safetensors")
    loaded = fxquant.load(tmp_path / "prepared.safetensors")
    train(loaded, memory_data(), TrainingOptions(epochs=1, batch_size=12), progress=False)
    model = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Flatten(), nn.Linear(256, 10)).eval()
    fxquant.save(fxquant.prepare(model, fxquant.recipe("vvtq"), images()), tmp_path / "other.safetensors")
    with pytest.raises(UnsupportedGraphError, match="folds parameters into constants"):
        train(fxquant.load(tmp_path / "other.safetensors"), memory_data(), OPTIONS, progress=False)


def test_a_budget_without_learned_bits_is_refused() -> None:
    with pytest.raises(ConfigError, match="a budget of 2 is given, but no bit width is learned"):
        train(prepared_vit(), memory_data(), TrainingOptions(budget=2.0), progress=False)


@pytest.mark.parametrize("label", [10, -1])
def test_a_label_beyond_the_classes_is_named(label: int) -> None:
    dataset = MemoryImages()
    dataset.labels[3] = label
    with pytest.raises(InputError, match=f"label {label} is not one of the model's 10 classes, 0 to 9"):
        train(prepared_vit(), TrainingData(dataset, dataset.images), OPTIONS, progress=False)
