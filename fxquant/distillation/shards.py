"""Write the labels of a folder of images file by file, so that an interrupted run can go on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fxquant.data.folder import Samples
from fxquant.distillation.label_kind import LabelKind
from fxquant.distillation.manifest import MANIFEST, Manifest, ShardIndex, write_manifest
from fxquant.distillation.shard import read_counts, write_shard
from fxquant.distillation.source import CropLabels
from fxquant.distributed import from_first, only_first, rank, together, world_size
from fxquant.errors import ConfigError, InputError
from fxquant.files import new_folder
from fxquant.progress import Bar

PATTERN = "labels-*.safetensors"

Produce = Callable[[range], Iterator[CropLabels]]


def write_shards(
    out: Path,
    samples: Samples,
    kind: LabelKind,
    num_classes: int,
    produce: Produce,
    *,
    facts: Mapping[str, Any],
    settings: Mapping[str, Any],
    images_per_shard: int,
    description: str,
    progress: bool = True,
) -> Manifest:
    """
    Make the folder `out`, write the labels of all `samples` to it, the index last, and return the index.

    produce: yields the labels of each image in a range of positions.
    facts: what the index notes.
    settings: what the labels depend on. A file with the same settings and images that is already there is kept.

    In a process group every rank calls this. Ranks share out the files, and rank 0 writes the index.

    Raises `InputError` where two images have one name, where the folder holds labels of other settings or images, and where
    it cannot be written.
    """
    if images_per_shard < 1:
        raise ConfigError(f"images_per_shard must be at least 1, got {images_per_shard}")
    names = image_names(samples)
    files = [
        (f"labels-{number:05d}.safetensors", range(start, min(start + images_per_shard, len(names))))
        for number, start in enumerate(range(0, len(names), images_per_shard))
    ]
    told = {"kind": kind.value, "num_classes": num_classes, "images_per_shard": images_per_shard, **settings}

    def look() -> list[tuple[int, ...] | None]:
        stack.enter_context(new_folder(out))
        _refuse_others(out, [file for file, _ in files])
        return [read_counts(out / file, names[part.start : part.stop], told) for file, part in files]

    def make(own: Sequence[int], bar: Bar) -> None:
        for file, part in (files[number] for number in own):
            write_shard(out / file, names[part.start : part.stop], list(_counted(produce(part), bar)), told)

    with contextlib.ExitStack() as stack:
        held = from_first(look)  # all that is there is looked at before any work is done
        missing = [number for number, counts in enumerate(held) if counts is None]
        there = sum(len(files[number][1]) for number, counts in enumerate(held) if counts is not None)
        if missing:  # until the files are there again, this is no set
            only_first(lambda: (out / MANIFEST).unlink(missing_ok=True))
        bar = stack.enter_context(Bar(len(names), description, "image", done=there, shown=progress))
        for start in range(0, len(missing), world_size()):  # a file for each rank
            turn = missing[start : start + world_size()]
            together(partial(make, turn[rank() : rank() + 1], bar))
            bar.update(sum(len(files[number][1]) for number in turn[1:]))  # by the others, as rank 0 shows the bar

    def finish() -> Manifest:
        shards = []
        for file, part in files:
            own = names[part.start : part.stop]
            counts = read_counts(out / file, own, told)
            if counts is None:
                raise InputError(f"{str(out / file)!r} is gone: all processes need one and the same folder")
            shards.append(ShardIndex(file, tuple(own), counts))
        manifest = Manifest(kind, num_classes, tuple(shards), facts)
        write_manifest(out, manifest)
        return manifest

    return from_first(finish)


def image_names(samples: Samples) -> list[str]:
    """Return the relative paths of the images without suffix; raise `InputError` where two are equal."""
    seen: dict[str, str] = {}
    for name in samples.names():
        stem = Path(name).with_suffix("").as_posix()
        if stem in seen:
            raise InputError(
                f"{seen[stem]!r} and {name!r} in {str(samples.root)!r} would share their labels, which are found by the name "
                "without suffix; rename one"
            )
        seen[stem] = name
    return list(seen)


def _refuse_others(out: Path, files: Sequence[str]) -> None:
    """Refuse a folder that holds files of a larger set, or of one that is divided otherwise."""
    other = sorted(file.name for file in out.glob(PATTERN) if file.name not in files)
    if other:
        raise InputError(
            f"{str(out)!r} holds {len(other)} files of other labels, such as {other[0]!r}; give another folder or delete them"
        )


def _counted(labels: Iterator[CropLabels], bar: Bar) -> Iterator[CropLabels]:
    for item in labels:
        yield item
        bar.update()
