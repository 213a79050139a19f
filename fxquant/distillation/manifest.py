"""The index of packed labels: which rows of which file belong to which image. It is written last."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fxquant.distillation.label_kind import LabelKind
from fxquant.errors import InputError
from fxquant.files import write_atomically

MANIFEST = "labels.json"
FORMAT = 1


@dataclass(frozen=True)
class ShardIndex:
    """
    One file of labels.

    names: its images, as relative paths without suffix.
    counts: the number of crops of each image.
    """

    file: str
    names: tuple[str, ...]
    counts: tuple[int, ...]

    @property
    def rows(self) -> int:
        """The number of crops in the file."""
        return sum(self.counts)


@dataclass(frozen=True)
class Manifest:
    """
    The content of a folder of packed labels.

    facts: what is known of how the labels were made, such as the teacher, and the size, interpolation and seed of its
    crops.
    """

    kind: LabelKind
    num_classes: int
    shards: tuple[ShardIndex, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """The number of images."""
        return sum(len(shard.names) for shard in self.shards)

    @property
    def crops(self) -> int:
        """The number of crops of all images."""
        return sum(shard.rows for shard in self.shards)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the index of `folder`; raise `InputError` where that fails."""
    shards = [
        {"file": shard.file, "counts": _compact(shard.counts), "names": list(shard.names)} for shard in manifest.shards
    ]
    data = {
        "fxquant_labels": FORMAT,
        "kind": manifest.kind.value,
        "num_classes": manifest.num_classes,
        "images": manifest.images,
        "crops": manifest.crops,
        "facts": dict(manifest.facts),
        "shards": shards,
    }
    text = json.dumps(data, allow_nan=False)
    try:
        write_atomically(folder / MANIFEST, lambda name: Path(name).write_text(text, encoding="ascii"))
    except OSError as error:
        raise InputError(f"cannot write {str(folder / MANIFEST)!r}: {error.strerror or error}") from error


def read_manifest(folder: Path) -> Manifest:
    """Return the index of `folder`; raise `InputError` naming the file where it is missing, damaged or of another format."""
    file = folder / MANIFEST
    try:
        data = json.loads(file.read_text(encoding="ascii"))
        version = data["fxquant_labels"]
    except OSError as error:
        raise InputError(f"cannot read {str(file)!r}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(file)!r} is not the index of a folder of labels, or damaged: {error}") from error
    if version != FORMAT:
        raise InputError(f"{str(file)!r} has format {version!r}, this fxquant reads {FORMAT}")
    try:
        shards = tuple(_read_shard(shard) for shard in data["shards"])
        manifest = Manifest(LabelKind(data["kind"]), int(data["num_classes"]), shards, dict(data["facts"]))
        whole = (manifest.images, manifest.crops) == (data["images"], data["crops"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{str(file)!r} is damaged: {type(error).__name__} {error}") from error
    if not whole:
        raise InputError(f"{str(file)!r} is damaged: its numbers of images and crops are not those of its files")
    return manifest


def offsets(manifest: Manifest) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return ``(images + 1,)`` int64: the first row of each image, counted over all files, and the number of all rows."""
    counts = np.fromiter((count for shard in manifest.shards for count in shard.counts), np.int64, manifest.images)
    return np.concatenate([np.zeros(1, np.int64), counts.cumsum()])


def _read_shard(data: dict[str, Any]) -> ShardIndex:
    names = tuple(data["names"])
    counts = data["counts"]
    counts = (counts,) * len(names) if isinstance(counts, int) else tuple(counts)
    plain = all(isinstance(name, str) for name in names) and all(isinstance(c, int) and c > 0 for c in counts)
    file = data["file"]
    if not plain or len(counts) != len(names) or Path(file).name != file:
        raise ValueError(f"names and counts of {file!r} do not belong together")
    return ShardIndex(file, names, counts)


def _compact(counts: tuple[int, ...]) -> int | list[int]:
    return counts[0] if len(set(counts)) == 1 else list(counts)
