"""What any set of stored labels offers, whatever its files look like."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fxquant.distillation.label_kind import LabelKind
from fxquant.distillation.soft_targets import SoftTargets, concatenate
from fxquant.errors import InputError

_SLACK = 1e-3  # what stored fractions and probabilities may be off by


class CropLabels(NamedTuple):
    """
    Crops of one image, and the teacher's answers to them.

    coords: ``(n, 4)`` float32, the top, left, height and width of each crop. Top and height are fractions of the image's
    height, left and width fractions of its width.
    flips: ``(n,)`` bool, whether a crop was mirrored after it was cut.
    """

    coords: Tensor
    flips: Tensor
    targets: SoftTargets

    def take(self, rows: slice | Sequence[int]) -> CropLabels:
        """Return some of the crops."""
        return CropLabels(self.coords[rows], self.flips[rows], self.targets[rows])


def join_labels(parts: Sequence[CropLabels]) -> CropLabels:
    """Return all crops of all `parts` in order; raise `InputError` where there are none, or where kinds differ."""
    targets = concatenate([part.targets for part in parts])
    return CropLabels(torch.cat([part.coords for part in parts]), torch.cat([part.flips for part in parts]), targets)


def digest_labels(labels: CropLabels) -> str:
    """Return a digest of the content of `labels`. Equal labels have equal digests, however they are stored."""
    targets = labels.targets
    digest = hashlib.sha256()
    for tensor in (labels.coords, labels.flips, targets.classes, targets.probabilities):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


class LabelSource(Protocol):
    """Labels of the images of a folder. It can be handed to worker processes of a `DataLoader`."""

    @property
    def kind(self) -> LabelKind:
        """The kind that the labels are read as."""

    @property
    def num_classes(self) -> int:
        """The number of classes that the teacher knows."""

    def count(self, image: Path) -> int:
        """Return how many crops of `image` are stored; raise `InputError` where it has no labels."""

    def read(self, image: Path, rows: Sequence[int] | None = None) -> CropLabels:
        """
        Return the crops `rows` of `image` in that order, or all for None; raise `InputError` where it has no such labels.
        """


def take_rows(labels: CropLabels, rows: Sequence[int] | None, image: Path) -> CropLabels:
    """Return some of an image's crops, or all for None; raise `InputError` naming the image where it has fewer."""
    if rows is None:
        return labels
    check_rows(rows, len(labels.flips), image)
    return labels.take(rows)


def check_rows(rows: Sequence[int], count: int, image: Path) -> None:
    """Raise `InputError` where a row is not below `count`."""
    if rows and not 0 <= min(rows) <= max(rows) < count:
        raise InputError(f"expected crops 0 to {count - 1} of {str(image)!r}, got {min(rows)} to {max(rows)}")


def check_labels(labels: CropLabels, where: str) -> None:
    """
    Raise `InputError` where coords leave the image, or where targets are no part of a distribution.

    where: the file, for the message.
    """
    coords, p = labels.coords, labels.targets.probabilities
    # Written so that NaN is refused too.
    inside = (coords[:, :2] >= -_SLACK) & (coords[:, 2:] > 0) & (coords[:, :2] + coords[:, 2:] <= 1 + _SLACK)
    if not bool(inside.all()):
        raise InputError(
            f"{where}: expected crops inside the image, as fractions top, left, height, width; "
            f"found {_first(coords, ~inside.all(1))}"
        )
    _check_classes(labels.targets, where)
    fine = (p >= 0).all(1) & (p.sum(1) <= 1 + _SLACK)
    if not bool(fine.all()):
        raise InputError(
            f"{where}: expected probabilities that sum to at most 1, found {_first(p, ~fine)}; "
            "check the kind of labels, and that they were stored after the softmax"
        )


def _check_classes(targets: SoftTargets, where: str) -> None:
    classes = targets.classes
    if not classes.numel():
        return
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= targets.num_classes:
        raise InputError(
            f"{where}: expected classes from 0 to {targets.num_classes - 1}, found {low if low < 0 else high}; "
            "check the number of classes"
        )
    ordered = classes.sort(1).values
    twice = (ordered[:, 1:] == ordered[:, :-1]).any(1)
    if bool(twice.any()):
        raise InputError(f"{where}: expected different classes in each row, found {_first(classes, twice)}")


def _first(rows: Tensor, bad: Tensor) -> str:
    """Return the first bad row of `rows`, shortened, and its position."""
    position = int(torch.nonzero(bad)[0])
    values = rows[position].tolist()
    shown = ", ".join(f"{v:.4g}" for v in values[:10]) + (", ..." if len(values) > 10 else "")
    return f"{shown} in row {position}"
