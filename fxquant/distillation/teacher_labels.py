"""Make labels with any teacher: its answers to random crops of every image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from fxquant.data.data_config import DataConfig
from fxquant.data.folder import Samples
from fxquant.distillation.label_kind import LabelKind
from fxquant.distillation.manifest import Manifest
from fxquant.distillation.random_crops import RandomCrops
from fxquant.distillation.shards import image_names, write_shards
from fxquant.distillation.source import CropLabels, join_labels
from fxquant.distillation.teacher import Teacher
from fxquant.distillation.teacher_crops import Cuts, TeacherCrops
from fxquant.errors import InputError, expect_whole


def make_labels(
    teacher: nn.Module,
    samples: Samples,
    data_config: DataConfig,
    out: str | os.PathLike[str],
    crops: int = 500,
    kind: LabelKind | str = LabelKind.MARGINAL_SMOOTHING_K5,
    *,
    scale: tuple[float, float] = (0.08, 0.936),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
    seed: int = 0,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    workers: int = 0,
    name: str | None = None,
    progress: bool = True,
    images_per_shard: int = 1024,
) -> Manifest:
    """
    Write the answers of `teacher` to `crops` random crops of each of the `samples` to the folder `out`; return the index.

    The crops of an image depend on the seed and on the image's relative name alone.

    data_config: from `resolve_data_config`, the size, interpolation and normalisation of the teacher's images.
    scale, ratio, flip: how crops are drawn, see `RandomCrops`.
    device: where the teacher is moved to.
    workers: the number of processes that load images; 0 loads in this one.
    name: the name of the teacher, which the index notes.
    progress: whether to show how far it has come.

    An interrupted run goes on where it was: a file that is there is whole, and is kept.

    Raises `ConfigError` for options that cannot be meant. Raises `InputError` for an image that cannot be read, for a
    teacher without ``(B, C)`` logits, and for an `out` that cannot be written or holds other labels.
    """
    if not isinstance(teacher, nn.Module):
        raise InputError(f"expected a teacher, a torch.nn.Module, found {type(teacher).__name__}")
    expect_whole("batch_size", batch_size, least=1)
    drawn = RandomCrops(crops, scale, ratio, flip)
    names = image_names(samples)
    with Teacher(teacher, data_config, LabelKind(kind), torch.device(device)) as asked:

        def produce(part: range) -> Iterator[CropLabels]:
            own, own_names = samples.take(part), names[part.start : part.stop]
            cuts = TeacherCrops(own, own_names, drawn, seed, batch_size, asked.size, asked.interpolation)
            return _per_image(_answers(asked, _load(cuts, workers)), crops)

        described = {"size": asked.size, "interpolation": asked.interpolation, "seed": seed, **asdict(drawn)}
        return write_shards(
            Path(out),
            samples,
            asked.kind,
            asked.num_classes,
            produce,
            facts={**described, "teacher": name},
            settings={**described, **asked.settings()},
            images_per_shard=images_per_shard,
            progress=progress,
            description="make labels",
        )


def _load(cuts: TeacherCrops, workers: int) -> Iterator[Cuts]:
    loader: DataLoader[Any] = DataLoader(
        cuts, batch_size=None, num_workers=min(workers, len(cuts)), collate_fn=_as_it_is
    )
    for item in loader:
        if isinstance(item, InputError):
            raise item
        yield item


def _answers(teacher: Teacher, batches: Iterable[Cuts]) -> Iterator[CropLabels]:
    for pixels, coords, flips in batches:
        yield CropLabels(coords.clone(), flips.clone(), teacher.answer(pixels))  # out of memory shared with a worker


def _per_image(pieces: Iterable[CropLabels], count: int) -> Iterator[CropLabels]:
    """Split labels into those of each image, `count` crops at a time."""
    held: list[CropLabels] = []
    rows = 0
    for piece in pieces:
        held.append(piece)
        rows += len(piece.flips)
        if rows < count:
            continue
        whole = join_labels(held)
        for start in range(0, rows - count + 1, count):
            yield whole.take(slice(start, start + count))
        rows %= count
        held = [whole.take(slice(len(whole.flips) - rows, None))] if rows else []


def _as_it_is(item: Any) -> Any:
    return item
