"""Labels as FKD publishes them: one file of `torch.save` per image."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxquant.distillation.array_pickle import load_arrays
from fxquant.distillation.label_kind import LabelKind
from fxquant.distillation.soft_targets import SoftTargets
from fxquant.distillation.source import CropLabels, check_labels, take_rows
from fxquant.errors import InputError, reason_of

SUFFIX = ".tar"  # by name only: the files are torch.save's
_DEPTHS = (4, 3, 2)  # data set, part, class and image, or the last of them


class PublishedLabels:
    """
    The labels in a published folder: ``<data set>/<part>/<class>/<image>.tar`` belongs to the image with the same last four
    names.

    If the data set has another name in the image folder, `folder` may be the labels' data set, or its part.
    """

    def __init__(self, folder: str | os.PathLike[str], kind: LabelKind, num_classes: int) -> None:
        self.folder = Path(folder)
        self.kind = kind
        self.num_classes = num_classes
        self._last: tuple[Path, CropLabels] | None = None

    def count(self, image: Path) -> int:
        """Return how many crops of `image` are stored; raise `InputError` where it has no labels."""
        return len(self.read(image).flips)

    def read(self, image: Path, rows: Sequence[int] | None = None) -> CropLabels:
        """
        Return the crops `rows` of `image` in that order, or all for None; raise `InputError` where it has no such labels.
        """
        last = self._last
        if last is None or last[0] != image:
            last = self._last = image, read_label_file(self.find(image), self.kind, self.num_classes)
        return take_rows(last[1], rows, image)

    def find(self, image: Path) -> Path:
        """Return the label file of `image`; raise `InputError` where there is none, and say where one could be."""
        names = _names(image)
        for depth in _DEPTHS:
            file = self.folder.joinpath(*names[-depth:])
            if file.is_file():
                return file
        for depth in (3, 2):
            tail = glob.escape(str(Path(*names[-depth:])))
            for other in self.folder.glob(f"{'*/' * (4 - depth)}{tail}"):
                raise InputError(
                    f"no labels of {str(image)!r} at {names[-4:][0]!r} in {str(self.folder)!r}, but at "
                    f"{str(other)!r}: if they are of this image, give {str(other.parents[depth - 1])!r} as folder of labels"
                )
        raise InputError(
            f"no labels of {str(image)!r}: expected {str(self.folder.joinpath(*names[-4:]))!r}, or from {names[-3:][0]!r} or "
            f"{names[-2:][0]!r} on; the folder of labels holds {_listing(self.folder)}"
        )


def read_label_file(file: Path, kind: LabelKind, num_classes: int) -> CropLabels:
    """
    Return the content of a published label file: a list of coords ``(n, 4)``, flips ``(n,)`` and the teacher's output.

    The output is ``(n, C)`` probabilities for ORI, ``(n,)`` classes for HARD, and ``(n, 2)`` for SMOOTHING: a class and its
    probability. For the other kinds it is ``(n, 2, k)``: k classes and their probabilities. No code in the file is run.

    Raises `InputError` naming the file where it cannot be read, or holds anything else.
    """
    try:
        loaded = load_arrays(file)
    except Exception as error:  # a damaged file raises anything
        raise InputError(f"cannot read {str(file)!r} as a label file: {reason_of(error)}") from error
    if not isinstance(loaded, list) or len(loaded) != 3:
        found = f"{len(loaded)} items" if isinstance(loaded, list) else type(loaded).__name__
        raise InputError(f"expected a list of coords, flips and output in {str(file)!r}, found {found}")
    coords, flips, output = (_tensor(item, file) for item in loaded)
    count = len(coords) if coords.dim() else 0
    width: dict[LabelKind, tuple[int, ...]] = {
        LabelKind.ORI: (num_classes,),
        LabelKind.HARD: (),
        LabelKind.SMOOTHING: (2,),
    }
    wanted = (count, 4), (count,), (count, *width.get(kind, (2, kind.kept)))
    shapes = tuple(coords.shape), tuple(flips.shape), tuple(output.shape)
    if not count or shapes != wanted:
        raise InputError(
            f"{str(file)!r}: expected coords, flips and output of shapes {', '.join(map(str, wanted))} as {kind.value} labels "
            f"have, found {', '.join(map(str, shapes))}; check the kind of labels and the number of classes"
        )
    labels = CropLabels(coords.float(), flips.bool(), _targets(output, kind, num_classes, file))
    check_labels(labels, repr(str(file)))
    return labels


def _targets(output: Tensor, kind: LabelKind, num_classes: int, file: Path) -> SoftTargets:
    if kind is LabelKind.ORI:
        return SoftTargets(torch.empty(len(output), 0, dtype=torch.int64), output.float(), num_classes, kind)
    classes = output.view(-1, 1) if kind is LabelKind.HARD else output[:, 0].reshape(len(output), -1)
    whole = classes.long()
    if not torch.equal(whole.to(classes.dtype), classes):
        raise InputError(f"{str(file)!r}: expected class indices, found fractions; check the kind of labels")
    known = kind is LabelKind.HARD
    p = torch.ones(len(output), 1) if known else output[:, 1].reshape(len(output), -1).float().contiguous()
    return SoftTargets(whole, p, num_classes, kind)


def _tensor(item: Any, file: Path) -> Tensor:
    """Return an array or tensor of numbers as a plain tensor."""
    if isinstance(item, np.ndarray):
        return torch.from_numpy(item.astype(item.dtype.newbyteorder("="), copy=True))
    if type(item) is torch.Tensor and item.layout is torch.strided and not item.is_quantized and not item.is_complex():
        if item.untyped_storage().nbytes() < item.nbytes:  # a few numbers that stand for any number of rows
            shape = tuple(item.shape)
            raise InputError(
                f"expected {shape} numbers in {str(file)!r}, found fewer that a tensor of no stride repeats"
            )
        return item.detach()
    found = f"a tensor of {item.dtype}, {item.layout}" if isinstance(item, Tensor) else type(item).__name__
    raise InputError(f"expected arrays or tensors of numbers in {str(file)!r}, found {found}")


def _names(image: Path) -> tuple[str, ...]:
    """Return the last four names of a path, or all where there are fewer."""
    return Path(os.path.abspath(image)).with_suffix(SUFFIX).parts[1:][-4:]


def _listing(folder: Path) -> str:
    names = sorted(os.listdir(folder))[:4] if folder.is_dir() else []
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "") if names else "nothing"
