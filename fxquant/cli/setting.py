"""What `eval` and `quantize` resolve before the first image is looked at: model, recipe, images."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from typing import Any

from fxquant.cli.auto import resolve_budget
from fxquant.cli.calibration_images import made_images, refuse_contradictions
from fxquant.cli.preprocessing import chosen_data_config
from fxquant.cli.reconstructing import resolve_reconstruction
from fxquant.cli.resolve import arguments_as_json, build_chosen_model, resolve_recipe
from fxquant.config.quant_config import QuantConfig
from fxquant.data.batches import ImageBatches, TensorBatches
from fxquant.data.data_config import DataConfig
from fxquant.data.folder import ImageTree, check_classes, draw_images, read_class_names, read_image_tree
from fxquant.data.unreadable import Unreadable
from fxquant.distributed import first_then_others, from_first, gather_objects, world_size
from fxquant.errors import InputError
from fxquant.graph.card import ModelCard, used_recipe
from fxquant.measurement.option_values import format_value
from fxquant.models.timm_model import TimmModel


@dataclass(frozen=True, eq=False)
class Setting:
    """Everything that was resolved before the first image was looked at."""

    config: QuantConfig
    recipe_options: dict[str, Any]
    reconstruction: dict[str, Any] | None  # what `fxquant.reconstruct` is given
    source: TimmModel
    data_config: DataConfig
    calibration: ImageBatches | TensorBatches
    card: ModelCard | None  # of the file, where one is saved
    tree: ImageTree | None = None
    evaluation: ImageBatches | None = None

    @property
    def measured(self) -> tuple[ImageTree, ImageBatches]:
        """The folder, and the images of it that the model is measured on, where it is."""
        assert self.tree is not None, "only a folder is evaluated on"
        assert self.evaluation is not None, "nothing is evaluated here"
        return self.tree, self.evaluation

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know about the folder."""
        return () if self.tree is None else self.tree.notes


def resolve_setting(options: argparse.Namespace, evaluated: bool, labelled: bool = True) -> Setting:
    """
    Check and load everything, what is quickest to refuse first.

    evaluated: images to evaluate on are drawn. labelled: they need labels, so that a folder without class folders is refused,
    and where images are evaluated on also one whose classes are not those of the model.
    """
    config, recipe_options = resolve_recipe(options)
    resolve_budget(options)  # what cannot be read is refused now
    reconstruction = resolve_reconstruction(options, config)
    refuse_contradictions(options)
    real = options.calib.count if options.calib.kind == "real" else 0
    if options.data is None and real:
        raise InputError(
            f"--calib {options.calib} draws images from a folder: give --data DIR, or --calib noise:N, synthetic:N or a file "
            "of images"
        )
    tree = None if options.data is None else read_image_tree(options.data, options.class_map, labelled)
    drawn, held = draw_images(tree, real, options.limit if evaluated else None, options.seed) if tree else (None, None)
    source = first_then_others(lambda: build_chosen_model(options))  # which may download
    if evaluated and labelled and tree is not None:
        check_classes(tree, source.num_classes, options.class_map is not None)
    data_config = chosen_data_config(options, source)
    batch = options.calib_batch_size or options.batch_size
    calibration: ImageBatches | TensorBatches
    card = None
    if options.save is not None:
        also = {} if reconstruction is None else {"reconstruct": options.reconstruct}
        also |= {} if options.auto is None else {"auto": options.auto}
        used = used_recipe(options.recipe, options.w_bits, options.a_bits, recipe_options | also)
        names = _class_names(options, source, tree)
        card = ModelCard(source.name, data_config, source.num_classes, names, used)
    if real and drawn is not None and tree is not None:
        lost = Unreadable(len(drawn), limit=options.unreadable, found=len(tree.calibration))
        calibration = _readable(ImageBatches(drawn, data_config, batch, options.workers, unreadable=lost))
    else:
        calibration = TensorBatches(first_then_others(lambda: made_images(options, source, data_config)), batch)
    evaluation = None
    if evaluated and held and tree is not None:
        lost = Unreadable(len(held), limit=options.unreadable, found=len(tree.evaluation))
        evaluation = ImageBatches(held, data_config, options.batch_size, options.workers, unreadable=lost)
    return Setting(
        config,
        recipe_options,
        reconstruction,
        source,
        data_config,
        calibration,
        card,
        tree,
        evaluation,
    )


def _class_names(options: argparse.Namespace, source: TimmModel, tree: ImageTree | None) -> tuple[str, ...]:
    """Return the names of the folder or of the class map, where they are those of the model."""
    names = () if tree is None else tree.classes
    if tree is None and options.class_map is not None:
        names = read_class_names(options.class_map)
        if len(names) != source.num_classes:
            raise InputError(
                f"--class-map: expected {source.num_classes} names, one for each class of the model, found {len(names)}"
            )
    return names if len(names) == source.num_classes else ()


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
    processes = {"processes": str(world_size())} if world_size() > 1 else {}
    return processes | {
        "model": f"{setting.source}, {options.dtype} on {options.device}",
        "weights": setting.source.weights,
        "input": str(setting.data_config),
        "calibrate": _calibrated_with(options, setting),
        "quantise": f"recipe {options.recipe}{_shown(options.option)}, W{options.w_bits}A{options.a_bits}"
        f"{' e4m3' if setting.recipe_options.get('codes') == 'e4m3' else ''}, "
        f"patch embedding {_on(setting.config.patch_embed)}, head {_on(setting.config.head)}, "
        f"attention products {_on(setting.config.opens_attention)}, "
        f"{_trained(setting.reconstruction)}"
        f"batches of {options.calib_batch_size or options.batch_size}",
    }


def _trained(reconstruction: dict[str, Any] | None) -> str:
    return "" if reconstruction is None else f"blocks trained for {reconstruction['iterations']} iterations, "


def setting_as_json(options: argparse.Namespace, setting: Setting) -> dict[str, Any]:
    """Return what it takes to repeat the run."""
    source = setting.source
    processes = {"processes": world_size()} if world_size() > 1 else {}
    return processes | {
        "arguments": arguments_as_json(options),
        "model": {"name": source.name, "weights": source.weights, "pretrained_cfg": source.pretrained_cfg},
        "data": {
            "config": asdict(setting.data_config),
            "classes": list(setting.tree.classes) if setting.tree else [],
            "calibration": _calibration_as_json(options, setting),
            "notes": list(setting.notes),
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
        "reconstruction": setting.reconstruction,
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
    if isinstance(setting.calibration, TensorBatches) or setting.tree is None:
        return f"{setting.calibration.count} images, {options.calib}, seed {options.seed}: none of the folder"
    drawn = setting.calibration.samples
    found = len(setting.tree.calibration)
    return f"{len(drawn)} of {found} images in {drawn.root}, seed {options.seed}, classes taking turns"


def _shown(given: list[tuple[str, Any]]) -> str:
    return f" ({', '.join(f'{name}={format_value(value)}' for name, value in given)})" if given else ""


def _on(switch: bool) -> str:
    return "quantised" if switch else "float"


def _calibration_as_json(options: argparse.Namespace, setting: Setting) -> dict[str, Any]:
    if isinstance(setting.calibration, TensorBatches) or setting.tree is None:
        return {"source": str(options.calib), "images": setting.calibration.count, "synthesis": dict(options.synthesis)}
    return {
        "source": "real",
        "folder": str(setting.calibration.samples.root),
        "found": len(setting.tree.calibration),
        "files": setting.calibration.samples.names(),
        "unreadable": setting.calibration.unreadable.as_json(),
    }
