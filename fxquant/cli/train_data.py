"""The images of ``fxquant train``: those it trains on, those its scales start from, and those it is measured on."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from timm.data import create_transform
from torch import Tensor

from fxquant.cli.preprocessing import chosen_data_config
from fxquant.data.batches import ImageBatches
from fxquant.data.data_config import DataConfig
from fxquant.data.folder import ImageTree, Samples, check_classes, draw_images, read_image_tree
from fxquant.data.pixels import image_mode
from fxquant.data.unreadable import Unreadable
from fxquant.distillation import LabelKind, MultiCropImages, open_labels
from fxquant.distillation.manifest import MANIFEST
from fxquant.distillation.source import digest_labels
from fxquant.distributed import shard
from fxquant.errors import ConfigError, InputError
from fxquant.models.timm_model import TimmModel
from fxquant.training import AugmentedImages, TrainingData, TrainingOptions
from fxquant.training.epoch_images import EpochImages

CALIBRATION = 64  # images that the scales of activations start from


@dataclass(frozen=True, eq=False)
class Folder:
    """
    An image tree as a model sees it: `data_config` is known from `with_model` on.

    unreadable: the part of the images to measure on that may be unreadable.
    """

    tree: ImageTree
    drawn: Samples
    measured: Samples
    batch_size: int
    workers: int
    unreadable: float
    data_config: DataConfig | None = None

    def with_model(self, options: argparse.Namespace, source: TimmModel) -> Folder:
        """Return the folder with the data config of a model; raise `InputError` where its classes are others."""
        check_classes(self.tree, source.num_classes, options.class_map is not None)
        return replace(self, data_config=chosen_data_config(options, source))

    @property
    def config(self) -> DataConfig:
        """The data config of the model."""
        assert self.data_config is not None, "with_model comes first"
        return self.data_config

    @property
    def held_out(self) -> int:
        """How many images a model is measured on."""
        return len(self.measured)

    @cached_property
    def evaluation(self) -> ImageBatches:
        """This rank's share of those images; files that cannot be read are counted among those of all ranks."""
        share = self.measured.take(shard(range(len(self.measured))))
        unreadable = Unreadable(len(self.measured), limit=self.unreadable, found=len(self.tree.evaluation))
        return ImageBatches(share, self.config, self.batch_size, self.workers, unreadable=unreadable)

    @cached_property
    def calibration(self) -> Tensor:
        """The images ``(B, C, H, W)`` that scales start from, the same on every rank."""
        unreadable = Unreadable(len(self.drawn), limit=self.unreadable, found=len(self.tree.calibration))
        images, _ = next(iter(ImageBatches(self.drawn, self.config, CALIBRATION, unreadable=unreadable)))
        return images


def read_folder(options: argparse.Namespace) -> Folder:
    """
    Return the folder --data; without a training, its evaluation images are all that is needed.

    Raises `InputError` where the folder cannot be read, or has one part for training and measuring.
    """
    tree = read_image_tree(options.data, options.class_map)
    if options.evaluate is not None:
        _, measured = draw_images(tree, 0, options.limit, options.seed)
        drawn = measured.take(range(min(CALIBRATION, len(measured))))
    elif tree.shared:
        raise InputError(
            f"expected train and val folders in {str(options.data)!r}, found one part: what is trained on cannot be measured on"
        )
    else:
        drawn, measured = draw_images(tree, min(CALIBRATION, len(tree.calibration)), options.limit, options.seed)
    return Folder(tree, drawn, measured, options.eval_batch_size, options.workers, options.unreadable)


def training_data(
    options: argparse.Namespace, folder: Folder, num_classes: int, training: TrainingOptions
) -> TrainingData:
    """
    Return what is trained on.

    Raises `InputError` where soft labels cannot be opened, `ConfigError` for labels of an unknown kind.
    """
    samples, config = folder.tree.calibration, folder.config
    facts = {"image_names": _digest(samples), "labels": "of the folder"}
    several: EpochImages | None = None
    images: EpochImages
    if options.soft_labels is None:
        if options.label_kind is not None:
            raise ConfigError("--label-kind is for --soft-labels")
        chosen = {name: getattr(config, name) for name in ("input_size", "interpolation", "mean", "std")}
        transform = create_transform(**chosen, is_training=True)
        images = AugmentedImages(samples, transform, training.seed, image_mode(config.input_size[0]))
    else:
        kind = _kind_of(options)
        images = _cropped(options.soft_labels, kind, num_classes, samples, 1, config, training)
        if training.crops > 1:
            several = _cropped(options.soft_labels, kind, num_classes, samples, training.crops, config, training)
        # Of one image, as all of them would take long to read.
        first = digest_labels(open_labels(options.soft_labels, kind, num_classes).read(samples.files[0]))
        facts |= {"labels": kind.value, "first_labels": first[:12]}
    return TrainingData(images, folder.calibration, folder.evaluation, several, facts)


def _kind_of(options: argparse.Namespace) -> LabelKind:
    """Return the kind that was asked for, else what packed labels tell of themselves, else the published run's."""
    if options.label_kind is not None:
        return LabelKind(options.label_kind)
    packed = (options.soft_labels / MANIFEST).exists()
    return open_labels(options.soft_labels).kind if packed else LabelKind.MARGINAL_SMOOTHING_K5


def _digest(samples: Samples) -> str:
    """Return a name for which images there are, and of which class each is."""
    listed = "\n".join(f"{label} {name}" for name, label in zip(samples.names(), samples.labels, strict=True))
    return hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()[:12]


def _cropped(
    labels: Path,
    kind: LabelKind,
    classes: int,
    samples: Samples,
    crops: int,
    config: DataConfig,
    training: TrainingOptions,
) -> MultiCropImages:
    channels, height, width = config.input_size
    if channels != 3 or height != width:
        raise InputError(f"soft labels are of square RGB crops, the model takes {channels} x {height} x {width}")
    source = open_labels(labels, kind, classes)
    return MultiCropImages(samples, source, crops, size=height, seed=training.seed, mean=config.mean, std=config.std)
