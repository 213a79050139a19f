"""Order and crops depend on seed, epoch and index alone."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.data import create_transform

from fxquant import InputError
from fxquant.data.folder import read_image_tree
from fxquant.training import AugmentedImages, TrainingData, TrainingOptions
from fxquant.training.epoch_images import load_batches, order_batches
from fxquant.training.schedule import EpochPass
from tests.support.folders import make_class
from tests.support.trained_models import MemoryImages

NOW = EpochPass(epoch=3, crops=1, lr_epoch=3, images=4, steps=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for hue, name in enumerate(("cat", "dog")):
        make_class(tmp_path / name, 3, hue, hue)
    return tmp_path


def augmented(folder: Path, seed: int = 0) -> AugmentedImages:
    transform = create_transform((3, 32, 32), is_training=True, auto_augment="rand-m9", re_prob=0.5)
    return AugmentedImages(read_image_tree(folder).calibration, transform, seed)


def test_ranks_together_see_in_each_step_what_one_sees() -> None:
    alone = order_batches(11, NOW, 0, 0, 1)
    assert sorted(i for batch in alone for i in batch) == list(range(11))
    ranks = [order_batches(11, NOW, 0, rank, 2) for rank in range(2)]
    assert [len(batch) for batch in ranks[0]] == [len(batch) for batch in ranks[1]] == [2, 2, 2]
    for step, batch in enumerate(alone):
        together = [*ranks[0][step], *ranks[1][step]]
        assert set(batch) <= set(together)
    assert order_batches(11, EpochPass(4, 1, 4, 4, 3), 0, 0, 1) != alone
    assert order_batches(11, NOW, 1, 0, 1) != alone


def test_crops_are_those_of_epoch_and_index_whatever_was_drawn_before(folder: Path) -> None:
    one, other = augmented(folder), augmented(folder)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr, index]
    first = [one[i][0] for i in range(6)]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # type: ignore[union-attr, index]
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    for i in reversed(range(6)):
        assert torch.equal(other[i][0], first[i])  # type: ignore[index]
    other.set_epoch(1)
    assert not torch.equal(other[0][0], first[0])  # type: ignore[index]
    assert not torch.equal(augmented(folder, seed=1)[0][0], first[0])  # type: ignore[index]


def test_batches_go_on_from_a_step_and_leave_the_random_state_alone() -> None:
    data = TrainingData(MemoryImages(11), torch.zeros(1))
    state = torch.get_rng_state()

    def load(start: int, workers: int = 0) -> list[torch.Tensor]:
        return [images for images, _ in load_batches(data, NOW, TrainingOptions(), start, (0, 1), workers, False)]

    whole = load(0)
    assert [len(images) for images in whole] == [4, 4, 3]
    for start, workers in ((0, 2), (2, 0), (3, 0)):
        assert all(torch.equal(a, b) for a, b in zip(load(start, workers), whole[start:], strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_several_crops_come_from_their_own_images() -> None:
    data = TrainingData(MemoryImages(8), torch.zeros(1), several=MemoryImages(4))
    several = EpochPass(epoch=0, crops=2, lr_epoch=0, images=4, steps=1)
    assert len(list(load_batches(data, several, TrainingOptions(), 0, (0, 1), 0, False))) == 1
    assert len(list(load_batches(data, NOW, TrainingOptions(), 0, (0, 1), 0, False))) == 2


def test_an_unreadable_image_is_named_from_worker_processes_too(folder: Path) -> None:
    bad = folder / "cat" / "1.png"
    bad.write_bytes(b"not an image")
    data = TrainingData(augmented(folder), torch.zeros(1))
    for workers in (0, 1):
        with pytest.raises(InputError, match=f"cannot read the image '{bad}'.* put a readable one in its place"):
            list(load_batches(data, NOW, TrainingOptions(), 0, (0, 1), workers, False))
