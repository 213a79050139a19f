"""A small model and images in memory to train it on."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.data import Dataset, default_collate

import fxquant
from fxquant.training import TrainingData
from tests.support.models import images, small_vit

COUNT = 12


class MemoryImages(Dataset[Any]):
    """Images that get darker or brighter by epoch; the labels are easy to tell."""

    collate = staticmethod(default_collate)

    def __init__(self, count: int = COUNT) -> None:
        self.labels = torch.arange(count) % 10
        self.images = images(count) * 0.1 + self.labels[:, None, None, None] / 10
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.images)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index] * (1 + self.epoch / 100), int(self.labels[index])


def prepared_vit(drop_path: float = 0.1, w_bits: int = 4, norm: bool = False, **options: Any) -> fx.GraphModule:
    """Return the same prepared model each time, of width 16 and one block; norm: behind a batch norm of the images."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)  # of the biases
        model = small_vit(embed_dim=16, depth=1)
    if norm:
        model = nn.Sequential(OrderedDict(norm=nn.BatchNorm2d(3), vit=model)).eval()
    return fxquant.prepare_qat(model, fxquant.recipe("vvtq", w_bits, 4, **options), images(), drop_path=drop_path)


def memory_data(dataset: MemoryImages | None = None, rank: int = 0, world: int = 1) -> TrainingData:
    """Return a rank's data, on which the model is measured as well."""
    dataset = dataset or MemoryImages()
    share = [(dataset.images[rank::world], dataset.labels[rank::world])]
    return TrainingData(dataset, dataset.images[:8], share)


def same_state(one: fx.GraphModule, other: fx.GraphModule) -> bool:
    """Say whether two models are equal, bit for bit."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
