"""Write the labels of a folder of images, file by file, so that an interrupted run goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from fxquant.data import Samples
from fxquant.distillation.label_kind import LabelKind
from fxquant.distillation.manifest import MANIFEST, Manifest, ShardIndex, write_manifest
from fxquant.distillation.shard import read_counts, write_shard
from fxquant.distillation.source import CropLabels
from fxquant.errors import ConfigError, InputError

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
) -> Manifest:
    """
    Write labels of all `samples` to the folder `out`, which is made, and the index last; return the index.

    produce: yields the labels of each image of a range of positions. facts: for the index. settings: what the labels depend
    on; a file of the same settings and images that is already there is kept.

    Raises `InputError` where two images have one name, where the folder holds labels of other settings or images, or where
    it cannot be written.
    """
    if images_per_shard < 1:
        raise ConfigError(f"images_per_shard must be at least 1, got {images_per_shard}")
    names = image_names(samples)
    files = [
        (f"labels-{number:05d}.safetensors", range(start, min(start + images_per_shard, len(names))))
        for number, start in enumerate(range(0, len(names), images_per_shard))
    ]
    _prepare(out, [file for file, _ in files])
    told = {"kind": kind.value, "num_classes": num_classes, "images_per_shard": images_per_shard, **settings}
    # All that is there is looked at before any work is done.
    held = [read_counts(out / file, names[part.start : part.stop], told) for file, part in files]
    shards: list[ShardIndex] = []
    with tqdm(total=len(names), desc=description, unit="image", disable=None) as bar:
        for (file, part), counts in zip(files, held, strict=True):
            own = names[part.start : part.stop]
            if counts is None:
                (out / MANIFEST).unlink(missing_ok=True)  # until the file is there again, this is no set
                labels = list(_counted(produce(part), bar))
                write_shard(out / file, own, labels, told)
                counts = tuple(len(item.flips) for item in labels)
            else:
                bar.update(len(own))
            shards.append(ShardIndex(file, tuple(own), counts))
    manifest = Manifest(kind, num_classes, tuple(shards), facts)
    write_manifest(out, manifest)
    return manifest


def image_names(samples: Samples) -> list[str]:
    """Return the images' relative paths without suffix; raise `InputError` where two are the same."""
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


def _prepare(out: Path, files: Sequence[str]) -> None:
    """Make the folder; refuse one with files of a larger or otherwise divided set."""
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {str(out)!r}: {error.strerror}") from error
    other = sorted(file.name for file in out.glob(PATTERN) if file.name not in files)
    if other:
        raise InputError(
            f"{str(out)!r} holds {len(other)} files of other labels, such as {other[0]!r}; give another folder or delete them"
        )


def _counted(labels: Iterator[CropLabels], bar: Any) -> Iterator[CropLabels]:
    for item in labels:
        yield item
        bar.update()
