"""Pack published labels, which are one file per image, into few files whose rows can be read one by one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fxquant.data.folder import Samples
from fxquant.distillation.label_folder import open_labels
from fxquant.distillation.label_kind import LabelKind
from fxquant.distillation.manifest import Manifest
from fxquant.distillation.shards import write_shards
from fxquant.distillation.source import CropLabels, digest_labels
from fxquant.errors import ConfigError, InputError


def pack_labels(
    source: str | os.PathLike[str],
    samples: Samples,
    out: str | os.PathLike[str],
    kind: LabelKind | str,
    num_classes: int,
    *,
    teacher: str | None = None,
    size: int | None = None,
    interpolation: str | None = None,
    progress: bool = True,
    images_per_shard: int = 4096,
    workers: int = 4,
) -> Manifest:
    """
    Write the labels that the folder `source` has for all `samples` to the folder `out`, and return their index.

    Nothing is rounded. An interrupted run goes on where it was: a file that is there is whole, and is kept.

    teacher, size, interpolation: how the labels were made, which the index notes.
    workers: the number of threads that read.
    progress: whether to show how far it has come.

    Raises `InputError` naming the first label file that is missing or damaged, and where `out` cannot be written or holds
    other labels.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    if Path(out).resolve() == Path(source).resolve():
        raise InputError(f"labels cannot be packed into the folder that they come from, {str(out)!r}")
    labels = open_labels(source, kind, num_classes)

    def produce(positions: range) -> Iterator[CropLabels]:
        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(labels.read, (samples.files[i] for i in positions))

    return write_shards(
        Path(out),
        samples,
        labels.kind,
        num_classes,
        produce,
        facts={"teacher": teacher, "size": size, "interpolation": interpolation},
        settings={"first labels": digest_labels(labels.read(samples.files[0]))},  # tells one source from another
        images_per_shard=images_per_shard,
        progress=progress,
        description="pack labels",
    )
