"""Image folders and label files for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from fxquant.data.data_config import DataConfig
from fxquant.data.folder import Samples, read_image_tree
from fxquant.distillation import CropLabels, LabelKind, SoftTargets

RECORDED = load_file(Path(__file__).parents[1] / "data" / "fkd.safetensors")
CLASSES = 12
KINDS = list(LabelKind)
DATA_CONFIG = DataConfig((3, 16, 16), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def make_images(root: Path, classes: int = 2, count: int = 3) -> Samples:
    """Write noisy images of different sizes, `count` in each class folder below ``train``."""
    random = np.random.RandomState(0)
    for label in range(classes):
        folder = root / "train" / f"n{label}"
        folder.mkdir(parents=True)
        for index in range(count):
            pixels = random.randint(0, 256, (20 + 3 * index, 24 + label, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"n{label}_{index}.png")
    return read_image_tree(root).calibration


def make_output(kind: LabelKind, count: int, seed: int = 0) -> Tensor:
    """Return an output as published files hold it."""
    p = torch.randn(count, CLASSES, generator=torch.Generator().manual_seed(seed)).softmax(1)
    if kind is LabelKind.ORI:
        return p
    top = p.topk(kind.kept)
    if kind is LabelKind.HARD:
        return top.indices[:, 0]
    rows = torch.stack([top.indices.float(), top.values], 1)
    return rows[..., 0] if kind is LabelKind.SMOOTHING else rows


def make_boxes(count: int, seed: int = 0) -> tuple[Any, Any]:
    """Return coords ``(n, 4)`` float32 and flips ``(n,)`` bool as arrays."""
    random = np.random.RandomState(seed)
    corner, extent = random.uniform(0, 0.4, (count, 2)), random.uniform(0.2, 0.6, (count, 2))
    return np.concatenate([corner, extent], 1).astype(np.float32), random.rand(count) < 0.5


def write_label(file: Path, kind: LabelKind, count: int = 9, seed: int = 0, **options: Any) -> None:
    """Write a published label file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save([*make_boxes(count, seed), make_output(kind, count, seed)], file, **options)


def publish(root: Path, samples: Samples, kind: LabelKind, count: int = 9) -> Path:
    """Write labels of all `samples`, each of its own number of crops."""
    for index, image in enumerate(samples.files):
        file = root.joinpath(*image.parts[-4:]).with_suffix(".tar")
        write_label(file, kind, count + index % 2, seed=index)
    return root


def equal(one: CropLabels, other: CropLabels) -> bool:
    """Say whether labels are the same, bit for bit."""
    pairs = zip(_tensors(one), _tensors(other), strict=True)
    return all(a.dtype is b.dtype and torch.equal(a, b) for a, b in pairs) and (
        (one.targets.kind, one.targets.num_classes) == (other.targets.kind, other.targets.num_classes)
    )


def recorded_targets(kind: LabelKind) -> SoftTargets:
    """Return the recorded labels of a kind."""
    stored, classes = RECORDED[f"labels/{kind.value}/stored"], int(RECORDED["classes"])
    if kind is LabelKind.HARD:
        return SoftTargets(stored[:, None], torch.ones(len(stored), 1), classes, kind)
    rows = stored if stored.dim() == 3 else stored[..., None]
    return SoftTargets(rows[:, 0].long(), rows[:, 1], classes, kind)


class TinyTeacher(nn.Module):
    """A linear classifier of the mean colours of an image's four quarters."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(B, C)``."""
        logits: Tensor = self.head(self.pool(x).flatten(1))
        return logits


def _tensors(labels: CropLabels) -> tuple[Tensor, ...]:
    return labels.coords, labels.flips, labels.targets.classes, labels.targets.probabilities
