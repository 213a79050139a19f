"""The demo model: what is packaged loads and reads the test part; training it learns and repeats."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

from fxquant.digits import (
    WEIGHTS_FILE,
    Digits,
    build_digits_vit,
    load_calibration_digits,
    load_digits_vit,
    load_test_digits,
    load_train_digits,
    measure_top1,
)
from fxquant.digits import train_digits as training
from fxquant.digits.images import prepare_scans, split_digits
from fxquant.digits.train_digits import DigitsTraining, distort, save_weights, train_digits_vit
from fxquant.errors import CheckpointError, ConfigError, InputError

MEASURED_TOP1 = 99.4


@pytest.fixture
def few() -> Digits:
    return load_calibration_digits(40)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def test_packaged_weights_are_small_and_say_where_they_come_from() -> None:
    assert WEIGHTS_FILE.stat().st_size <= 2_500_000
    with safe_open(WEIGHTS_FILE, framework="pt") as file:
        notes = json.loads(file.metadata()["origin"])
    assert notes["recipe"].partition("(")[2] == str(DigitsTraining()).partition("(")[2]
    assert float(notes["test_top1"]) == MEASURED_TOP1


def test_packaged_model_reads_the_test_part() -> None:
    model = load_digits_vit()
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert measure_top1(model, load_test_digits()) >= MEASURED_TOP1 - 0.2


def test_packaged_model_needs_no_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert load_digits_vit()(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    with pytest.raises(InputError, match="pip install scikit-learn"):
        load_test_digits()


def test_loading_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    load_digits_vit()
    assert torch.equal(before, torch.random.get_rng_state())


def test_split_is_disjoint_complete_and_balanced() -> None:
    labels = np.arange(1000) % 10
    train, test = split_digits(labels)
    assert sorted([*train, *test]) == list(range(1000))
    assert np.bincount(labels[test]).tolist() == [50] * 10


def test_split_is_the_same_on_every_machine_and_version() -> None:
    train, test = split_digits(np.arange(1000) % 10)
    assert train[:5].tolist() == [910, 711, 912, 943, 734]
    assert test[:5].tolist() == [260, 181, 422, 543, 894]


def test_split_needs_something_to_train_on() -> None:
    with pytest.raises(InputError, match="found 50 of 0"):
        split_digits(np.arange(500) % 10)


def test_parts_have_the_stated_sizes_and_share_no_image() -> None:
    train, test = load_train_digits(), load_test_digits()
    assert (len(train), len(test)) == (1297, 500)
    assert train.images.dtype == torch.float32
    both = torch.cat((train.images, test.images)).flatten(1)
    assert len(torch.unique(both, dim=0)) == 1797
    assert both.mean().abs() < 0.01


def test_calibration_digits_are_balanced_and_from_the_train_part() -> None:
    calibration, train = load_calibration_digits(40), load_train_digits()
    assert torch.bincount(calibration.labels).tolist() == [4] * 10
    assert torch.equal(calibration.images, train.images[:40])


@pytest.mark.parametrize("count", [0, -1, 1298])
def test_calibration_count_is_checked(count: int) -> None:
    with pytest.raises(InputError, match="1 to 1297"):
        load_calibration_digits(count)


def test_scans_are_normalised_and_checked() -> None:
    images = prepare_scans(torch.full((1, 8, 8), 16.0))
    assert torch.allclose(images, torch.tensor((1 - 0.305) / 0.376).expand(1, 1, 32, 32))
    with pytest.raises(InputError, match=r"\(B, 8, 8\), found \(8, 8\)"):
        prepare_scans(torch.zeros(8, 8))


def test_digits_of_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"found \(2, 1, 28, 28\)"):
        Digits(torch.zeros(2, 1, 28, 28), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(InputError, match=r"and \(3,\)"):
        Digits(torch.zeros(2, 1, 32, 32), torch.zeros(3, dtype=torch.int64))


def test_top1_counts_every_image_once(few: Digits) -> None:
    model = load_digits_vit()
    right = (model(few.images).argmax(dim=-1) == few.labels).double().mean().item()
    assert measure_top1(model, few, batch_size=7) == pytest.approx(100 * right)
    with pytest.raises(InputError, match="0 and 100"):
        measure_top1(model, Digits(few.images[:0], few.labels[:0]))


def test_distort_with_no_bounds_is_the_identity(few: Digits) -> None:
    still = distort(few.images, DigitsTraining(max_rotation=0, max_shift=0, max_zoom=0))
    assert torch.allclose(still, few.images, atol=1e-4)


def test_distort_moves_ink_a_little_and_keeps_the_range(few: Digits) -> None:
    moved = distort(few.images, DigitsTraining())
    assert moved.amin() >= few.images.amin() - 1e-5
    assert moved.amax() <= few.images.amax() + 1e-5
    assert 0.01 < F.mse_loss(moved, few.images) < 0.5


def test_training_learns_and_repeats_for_a_seed(few: Digits) -> None:
    state = torch.random.get_rng_state()
    recipe = DigitsTraining(epochs=4, batch_size=20, seed=3)
    first, losses = train_digits_vit(few, recipe)
    again, _ = train_digits_vit(few, recipe)
    other, _ = train_digits_vit(few, DigitsTraining(epochs=1, batch_size=40, seed=4))
    assert losses[-1] < losses[0]
    weights = first.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in again.state_dict().items())
    assert not torch.equal(weights["head.weight"], other.state_dict()["head.weight"])
    assert torch.equal(state, torch.random.get_rng_state())


def test_training_refuses_nothing_to_learn_from(few: Digits) -> None:
    with pytest.raises(InputError, match="no images"):
        train_digits_vit(Digits(few.images[:0], few.labels[:0]))
    with pytest.raises(ConfigError, match="found 0 and"):
        DigitsTraining(epochs=0)


def test_saved_weights_load_again(tmp_path: Path) -> None:
    model = build_digits_vit().eval()
    save_weights(model, tmp_path / "new.safetensors", {"seed": "0"})
    assert [path.name for path in tmp_path.iterdir()] == ["new.safetensors"]
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(load_digits_vit(tmp_path / "new.safetensors")(images), model(images))


def test_saved_weights_are_readable_by_all_and_equal_byte_for_byte(tmp_path: Path) -> None:
    model = build_digits_vit()
    files = [tmp_path / f"{number}.safetensors" for number in range(4)]
    for file in files:
        save_weights(model, file, {"seed": "0", "threads": "1"})
    assert len({file.read_bytes() for file in files}) == 1
    if os.name == "posix":
        assert files[0].stat().st_mode & 0o777 == 0o644


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "old.safetensors"
    file.write_bytes(b"old")

    def fail(tensors: object, partial: Path, metadata: object) -> None:
        partial.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(training, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(build_digits_vit(), file, {})
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_weights_that_are_missing_damaged_or_foreign_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read"):
        load_digits_vit(tmp_path / "none.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(WEIGHTS_FILE.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot read"):
        load_digits_vit(damaged)
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="does not hold the weights"):
        load_digits_vit(tmp_path / "foreign.safetensors")


def test_command_writes_weights_and_prints_accuracy(
    tmp_path: Path, few: Digits, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "load_train_digits", lambda: few)
    monkeypatch.setattr(training, "load_test_digits", lambda: few)
    training.main(["--out", str(tmp_path / "out.safetensors"), "--epochs", "1", "--seed", "5"])
    assert "of 40 images" in capsys.readouterr().out
    load_digits_vit(tmp_path / "out.safetensors")


@pytest.mark.parametrize("wrong", [["--epochs", "0"], ["--out", "no/such/folder/file"], ["--out", "."]])
def test_command_refuses_before_it_trains(wrong: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "train_digits_vit", None)
    with pytest.raises(SystemExit, match="2"):
        training.main(wrong)
