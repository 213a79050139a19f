"""Labels of many images in few files. Only the rows that are asked for are read."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from fxquant.distillation.label_kind import LabelKind
from fxquant.distillation.manifest import offsets, read_manifest
from fxquant.distillation.shard import Shard, open_shard
from fxquant.distillation.source import CropLabels, check_labels, check_rows
from fxquant.errors import InputError


class PackedLabels:
    """
    The labels in a folder that `make_labels` or `pack_labels` wrote.

    An image is known by its path below the image folder, ``class/name`` without suffix. The image folder itself may have
    moved.

    kind: how the labels are read; None takes that of the folder. MARGINAL_RENORM and MARGINAL_SMOOTHING_K5 are stored
    alike, and labels of either can be read as both.
    num_classes: the number of classes; None takes that of the folder.

    Raises `InputError` where the folder is damaged, or holds labels of another kind or number of classes.
    """

    def __init__(
        self, folder: str | os.PathLike[str], kind: LabelKind | None = None, num_classes: int | None = None
    ) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.kind = kind or self.manifest.kind
        self.num_classes = self.manifest.num_classes
        self._check(num_classes)
        names = [name for shard in self.manifest.shards for name in shard.names]
        self._images = {name: position for position, name in enumerate(names)}
        self._depths = sorted({name.count("/") + 1 for name in names}, reverse=True)
        self._offsets = offsets(self.manifest)
        self._firsts = [0, *accumulate(len(shard.names) for shard in self.manifest.shards)]
        self._opened: dict[int, Shard] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": {}}  # maps of files do not travel to other processes

    def __len__(self) -> int:
        return len(self._images)

    def count(self, image: Path) -> int:
        """Return how many crops of `image` are stored; raise `InputError` where it has no labels."""
        position = self._find(image)
        return int(self._offsets[position + 1] - self._offsets[position])

    def read(self, image: Path, rows: Sequence[int] | None = None) -> CropLabels:
        """
        Return the crops `rows` of `image` in that order, or all for None; raise `InputError` where it has no such labels.
        """
        position = self._find(image)
        first, count = int(self._offsets[position]), self.count(image)
        chosen = range(count) if rows is None else rows
        check_rows(chosen, count, image)
        number = bisect_right(self._firsts, position) - 1
        start = first - int(self._offsets[self._firsts[number]])
        labels = self._open(number).take([start + row for row in chosen], self.kind, self.num_classes)
        check_labels(labels, f"{str(self.folder / self.manifest.shards[number].file)!r}, {str(image)!r}")
        return labels

    def _open(self, number: int) -> Shard:
        if number not in self._opened:
            index = self.manifest.shards[number]
            self._opened[number] = open_shard(self.folder / index.file, index.rows, self.kind, self.num_classes)
        return self._opened[number]

    def _find(self, image: Path) -> int:
        parts = Path(os.path.abspath(image)).with_suffix("").parts
        for depth in self._depths:
            position = self._images.get("/".join(parts[-depth:]))
            if position is not None:
                return position
        some = next(iter(self._images), "nothing")
        raise InputError(
            f"no labels of {str(image)!r} in {str(self.folder)!r}, which holds {len(self)} images such as {some!r}; "
            "make or pack the labels of this folder of images"
        )

    def _check(self, num_classes: int | None) -> None:
        stored = self.manifest.kind
        if not stored.stored_like(self.kind):
            raise InputError(
                f"{str(self.folder)!r} holds {stored.value} labels, which cannot be read as {self.kind.value}"
            )
        if num_classes not in (None, self.num_classes):
            raise InputError(
                f"{str(self.folder)!r} holds labels of {self.num_classes} classes, the model has {num_classes}"
            )
        there = set(os.listdir(self.folder))
        missing = [shard.file for shard in self.manifest.shards if shard.file not in there]
        if missing:
            raise InputError(
                f"{str(self.folder)!r} lacks {len(missing)} of its {len(self.manifest.shards)} files, such as {missing[0]!r}; "
                "run the command that made them again"
            )
