"""What `eval` and `quantize` resolve before the first image is looked at: model, recipe, images."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxquant.cli.calibration_images import (
    CalibrationSource,
    add_calibration_options,
    made_images,
    refuse_contradictions,
)
from fxquant.cli.shared_options import (
    DTYPES,
    add_image_options,
    add_model_options,
    add_recipe_options,
    build_chosen_model,
    resolve_recipe,
)
from fxquant.config.quant_config import QuantConfig
from fxquant.data.batches import DataConfig, ImageBatches, TensorBatches, resolve_data_config
from fxquant.data.folder import ImageTree, check_classes, draw_images, read_image_tree
from fxquant.data.unreadable import Unreadable
from fxquant.distributed import first_then_others, from_first, gather_objects, world_size
from fxquant.measurement.option_values import format_value, natural, positive
from fxquant.models.timm_model import TimmModel


@dataclass(frozen=True, eq=False)
class Setting:
    """Everything that was resolved before the first image was looked at."""

    config: QuantConfig
    recipe_options: dict[str, Any]
    source: TimmModel
    tree: ImageTree
    data_config: DataConfig
    calibration: ImageBatches | TensorBatches
    evaluation: ImageBatches


def add_setting_options(parser: argparse.ArgumentParser) -> None:
    """Add the model, the image folder, and how the model is quantised."""
    add_model_options(parser)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the image folder")
    parser.add_argument("--class-map", type=Path, metavar="F", help="class folder names by index, one per line (.txt)")
    add_image_options(parser)
    group = parser.add_argument_group("quantisation")
    add_recipe_options(group)
    add_calibration_options(group)
    group.add_argument("--target", choices=("int8", "fake"), default="int8", help="integer products or simulation")
    group.add_argument("--strict", action="store_true", help="fail where anything asked for stays float")


def add_device_options(group: argparse._ArgumentGroup) -> None:
    """Add where and how images and model meet."""
    group.add_argument("--batch-size", type=positive, default=64, metavar="N", help="images per batch (%(default)s)")
    group.add_argument(
        "--device", default="cpu", help="such as cpu or cuda, under torchrun a GPU for each process (%(default)s)"
    )
    group.add_argument("--dtype", choices=DTYPES, default="float32", help="of the float model (%(default)s)")
    workers = min(4, os.cpu_count() or 1)
    group.add_argument("--workers", type=natural, default=workers, metavar="N", help="loading processes (%(default)s)")


def resolve_setting(options: argparse.Namespace, limit: int | None, classes: bool) -> Setting:
    """
    Check and load everything, what is quickest to refuse first.

    limit: of the images to evaluate on. classes: refuse a folder whose classes are not those of the model.
    """
    config, recipe_options = resolve_recipe(options)
    refuse_contradictions(options)
    tree = read_image_tree(options.data, options.class_map)
    real = options.calib.count if options.calib.kind == "real" else 0
    drawn, evaluation = draw_images(tree, real, limit, options.seed)
    source = first_then_others(lambda: build_chosen_model(options))  # which may download
    if classes:
        check_classes(tree, source.num_classes, options.class_map is not None)
    data_config = resolve_data_config(source.model, options.img_size)
    batch = options.calib_batch_size or options.batch_size
    calibration: ImageBatches | TensorBatches
    if real:
        lost = Unreadable(len(drawn), limit=options.unreadable, found=len(tree.calibration))
        calibration = _readable(ImageBatches(drawn, data_config, batch, options.workers, unreadable=lost))
    else:
        calibration = TensorBatches(first_then_others(lambda: made_images(options, source, data_config)), batch)
    lost = Unreadable(len(evaluation), limit=options.unreadable, found=len(tree.evaluation))
    return Setting(
        config,
        recipe_options,
        source,
        tree,
        data_config,
        calibration,
        ImageBatches(evaluation, data_config, options.batch_size, options.workers, unreadable=lost),
    )


def share_unreadable(batches: ImageBatches) -> None:
    """
    Note on every rank what any of them could not read.

    Raises `InputError` where those files are too many together.
    """
    for reasons in gather_objects(batches.unreadable.reasons):
        batches.unreadable.add(reasons)


def print_unreadable(*parts: ImageBatches | TensorBatches) -> None:
    """Print a line for each part of the images of which some could not be read."""
    for part in parts:
        if isinstance(part, ImageBatches) and part.unreadable:
            print(part.unreadable.describe(part.samples.root))


def describe_setting(options: argparse.Namespace, setting: Setting) -> dict[str, str]:
    """Return lines for `print_facts`."""
    size = "x".join(map(str, setting.data_config["input_size"]))
    shown = {key: setting.data_config[key] for key in ("interpolation", "crop_pct", "crop_mode", "mean", "std")}
    processes = {"processes": str(world_size())} if world_size() > 1 else {}
    return processes | {
        "model": f"{setting.source}, {options.dtype} on {options.device}",
        "weights": setting.source.weights,
        "input": f"{size}, " + ", ".join(f"{key} {value}" for key, value in shown.items()),
        "calibrate": _calibrated_with(options, setting),
        "quantise": f"recipe {options.recipe}{_shown(options.option)}, W{options.w_bits}A{options.a_bits}, "
        f"patch embedding {_on(setting.config.patch_embed)}, head {_on(setting.config.head)}, "
        f"attention products {_on(setting.config.opens_attention)}, "
        f"batches of {options.calib_batch_size or options.batch_size}",
    }


def setting_as_json(options: argparse.Namespace, setting: Setting) -> dict[str, Any]:
    """Return what it takes to repeat the run."""
    special, internal = (Path, CalibrationSource), ("run", "shares")
    arguments = {k: str(v) if isinstance(v, special) else v for k, v in vars(options).items() if k not in internal}
    source = setting.source
    processes = {"processes": world_size()} if world_size() > 1 else {}
    return processes | {
        "arguments": arguments,
        "model": {"name": source.name, "weights": source.weights, "pretrained_cfg": source.pretrained_cfg},
        "data": {
            "config": setting.data_config,
            "classes": list(setting.tree.classes),
            "calibration": _calibration_as_json(options, setting),
            "notes": list(setting.tree.notes),
        },
        "recipe": {
            "name": options.recipe,
            "options": setting.recipe_options,
            "w_bits": options.w_bits,
            "a_bits": options.a_bits,
            "patch_embed": setting.config.patch_embed,
            "head": setting.config.head,
            "attention": setting.config.attention,
        },
        "target": options.target,
        "seed": options.seed,
    }


def _readable(batches: ImageBatches) -> ImageBatches:
    """
    Return the batches without the files that cannot be read, for which all are read once.

    Batches stay full and are the same on any number of ranks, which calibration depends on. Raises `InputError` where too
    many cannot be read.
    """
    batches.unreadable.add(from_first(batches.find_unreadable))
    return batches.without(batches.unreadable.reasons)


def _calibrated_with(options: argparse.Namespace, setting: Setting) -> str:
    if isinstance(setting.calibration, TensorBatches):
        return f"{setting.calibration.count} images, {options.calib}, seed {options.seed}: none of the folder"
    drawn = setting.calibration.samples
    found = len(setting.tree.calibration)
    return f"{len(drawn)} of {found} images in {drawn.root}, seed {options.seed}, classes taking turns"


def _shown(given: list[tuple[str, Any]]) -> str:
    return f" ({', '.join(f'{name}={format_value(value)}' for name, value in given)})" if given else ""


def _on(switch: bool) -> str:
    return "quantised" if switch else "float"


def _calibration_as_json(options: argparse.Namespace, setting: Setting) -> dict[str, Any]:
    if isinstance(setting.calibration, TensorBatches):
        return {"source": str(options.calib), "images": setting.calibration.count, "synthesis": dict(options.synthesis)}
    return {
        "source": "real",
        "folder": str(setting.calibration.samples.root),
        "found": len(setting.tree.calibration),
        "files": setting.calibration.samples.names(),
        "unreadable": setting.calibration.unreadable.as_json(),
    }
