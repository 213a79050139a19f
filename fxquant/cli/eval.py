"""``fxquant eval MODEL --data DIR``: a timm model on an image folder, float and quantised side by side."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fxquant
from fxquant.cli.arguments import (
    DTYPES,
    add_model_options,
    add_recipe_options,
    add_run_options,
    format_value,
    natural,
    positive,
    resolve_device,
    resolve_recipe,
    start_run,
)
from fxquant.cli.calibration_images import CalibrationSource, TensorBatches, add_calibration_options, made_images
from fxquant.cli.measure import Row, Task, calibrate_model, format_rows, measure_converted, measure_float
from fxquant.cli.models import TimmModel, build_timm_model
from fxquant.cli.output import print_facts, write_json
from fxquant.config import QuantConfig
from fxquant.data import (
    DataConfig,
    ImageBatches,
    ImageTree,
    check_classes,
    draw_images,
    read_image_tree,
    resolve_data_config,
)
from fxquant.environment import describe_environment

DESCRIPTION = """
Measure a timm model on an ImageFolder tree, as it is and quantised. DIR holds train/ and val/ (or validation/, test/), from
which calibration and evaluation images are drawn, or class folders alone, from which both are, without overlap. Images are
loaded as timm does for validation, by the model's own data config.
"""


@dataclass(frozen=True, eq=False)
class _Setting:
    """Everything that was resolved before the first image was looked at."""

    config: QuantConfig
    recipe_options: dict[str, Any]
    source: TimmModel
    tree: ImageTree
    data_config: DataConfig
    calibration: ImageBatches | TensorBatches
    evaluation: ImageBatches


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("eval", help="measure a timm model on an image folder", description=DESCRIPTION)
    parser.set_defaults(run=run)
    add_model_options(parser)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the image folder")
    parser.add_argument("--class-map", type=Path, metavar="F", help="class folder names by index, one per line (.txt)")
    _add_quantisation(parser)
    _add_measurement(parser)
    add_run_options(parser)


def run(options: argparse.Namespace) -> None:
    """Measure the float model, quantise it, measure that; print, save and write what was asked for."""
    start_run(options)
    device, dtype = resolve_device(options.device), DTYPES[options.dtype]
    setting = _resolve(options)
    print_facts(_describe(options, setting))
    for note in setting.tree.notes:
        print(f"note: {note}")
    model = setting.source.model.to(device=device, dtype=dtype)
    task = Task(model, setting.calibration, setting.evaluation, device, dtype, options.seed)

    reference = measure_float(task, options.dtype)
    print(f"\nfloat model: top-1 {reference.evaluation.top1:.2f} %")
    _warn_at_chance(reference, setting)
    prepared, seconds = calibrate_model(task, setting.config, options.memory)
    print(f"calibrated with {setting.calibration.count} images in {seconds:.1f} s\n")
    name = f"W{options.w_bits}A{options.a_bits} {options.target}"
    gm, row = measure_converted(
        task,
        prepared,
        reference.evaluation,
        name,
        target=options.target,
        strict=options.strict,
        compiled=options.compile,
    )
    print(format_rows([reference, row]))
    if options.save:
        fxquant.save(gm, options.save)
        print(f"\nsaved {options.save}")
    if options.json:
        write_json(options.json, _as_json(options, setting, reference, row, seconds))


def _add_quantisation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("quantisation")
    add_recipe_options(group)
    add_calibration_options(group)
    group.add_argument("--target", choices=("int8", "fake"), default="int8", help="integer products or simulation")
    group.add_argument("--strict", action="store_true", help="fail where anything asked for stays float")


def _add_measurement(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("measurement")
    group.add_argument("--batch-size", type=positive, default=64, metavar="N", help="images per batch (%(default)s)")
    group.add_argument("--limit", type=positive, metavar="N", help="evaluate on N images, drawn at random (all)")
    group.add_argument("--device", default="cpu", help="such as cpu or cuda (%(default)s)")
    group.add_argument("--dtype", choices=DTYPES, default="float32", help="of the float model (%(default)s)")
    group.add_argument("--compile", action="store_true", help="evaluate the quantised model under torch.compile")
    workers = min(4, os.cpu_count() or 1)
    group.add_argument("--workers", type=natural, default=workers, metavar="N", help="loading processes (%(default)s)")
    group.add_argument("--save", type=Path, metavar="F", help="save the quantised model to this .safetensors file")


def _resolve(options: argparse.Namespace) -> _Setting:
    """Check and load everything, what is quickest to refuse first."""
    config, recipe_options = resolve_recipe(options)
    tree = read_image_tree(options.data, options.class_map)
    real = options.calib.count if options.calib.kind == "real" else 0
    drawn, evaluation = draw_images(tree, real, options.limit, options.seed)
    source = build_timm_model(
        options.model,
        pretrained=options.pretrained,
        checkpoint=options.checkpoint,
        num_classes=options.num_classes,
        img_size=options.img_size,
    )
    check_classes(tree, source.num_classes, options.class_map is not None)
    data_config = resolve_data_config(source.model, options.img_size)
    batch = options.calib_batch_size or options.batch_size
    calibration: ImageBatches | TensorBatches
    if real:
        calibration = ImageBatches(drawn, data_config, batch, options.workers)
    else:
        calibration = TensorBatches(made_images(options, source, data_config), batch)
    return _Setting(
        config,
        recipe_options,
        source,
        tree,
        data_config,
        calibration,
        ImageBatches(evaluation, data_config, options.batch_size, options.workers),
    )


def _describe(options: argparse.Namespace, setting: _Setting) -> dict[str, str]:
    parameters = sum(p.numel() for p in setting.source.model.parameters())
    size = "x".join(map(str, setting.data_config["input_size"]))
    shown = {key: setting.data_config[key] for key in ("interpolation", "crop_pct", "crop_mode", "mean", "std")}
    evaluation = setting.evaluation.samples
    apart = ", none of them a calibration image" if setting.tree.shared else ""
    return {
        "model": f"{setting.source.name}, {parameters / 1e6:.1f} M parameters, {options.dtype} on {options.device}",
        "weights": setting.source.weights,
        "input": f"{size}, " + ", ".join(f"{key} {value}" for key, value in shown.items()),
        "calibrate": _calibrated_with(options, setting),
        "evaluate": f"{len(evaluation)} of {len(setting.tree.evaluation)} images in {evaluation.root}{apart}, "
        f"{len(setting.tree.classes)} classes",
        "quantise": f"recipe {options.recipe}{_shown(options.option)}, W{options.w_bits}A{options.a_bits}, "
        f"patch embedding {_on(setting.config.patch_embed)}, head {_on(setting.config.head)}, "
        f"attention products {_on(setting.config.opens_attention)}, "
        f"batches of {options.calib_batch_size or options.batch_size}",
    }


def _calibrated_with(options: argparse.Namespace, setting: _Setting) -> str:
    if isinstance(setting.calibration, TensorBatches):
        return f"{setting.calibration.count} images, {options.calib}, seed {options.seed}: none of the folder"
    drawn = setting.calibration.samples
    found = len(setting.tree.calibration)
    return f"{len(drawn)} of {found} images in {drawn.root}, seed {options.seed}, classes taking turns"


def _shown(given: list[tuple[str, Any]]) -> str:
    return f" ({', '.join(f'{name}={format_value(value)}' for name, value in given)})" if given else ""


def _on(switch: bool) -> str:
    return "quantised" if switch else "float"


def _warn_at_chance(row: Row, setting: _Setting) -> None:
    """Say loudly where a trained model is no better than guessing: it is the folder or the preprocessing."""
    chance = 100 / max(len(setting.tree.classes), 1)
    if row.evaluation.top1 < 1.5 * chance and not setting.source.weights.startswith("RANDOM"):
        print(
            f"fxquant: warning: the float model is at chance level ({chance:.2f} %): check the class order, the input line "
            "above and the checkpoint before reading anything into the quantised result",
            file=sys.stderr,
        )


def _calibration_as_json(options: argparse.Namespace, setting: _Setting) -> dict[str, Any]:
    if isinstance(setting.calibration, TensorBatches):
        return {"source": str(options.calib), "images": setting.calibration.count, "synthesis": dict(options.synthesis)}
    return {
        "source": "real",
        "folder": str(setting.calibration.samples.root),
        "found": len(setting.tree.calibration),
        "files": setting.calibration.samples.names(),
    }


def _as_json(
    options: argparse.Namespace, setting: _Setting, reference: Row, row: Row, seconds: float
) -> dict[str, Any]:
    special = (Path, CalibrationSource)
    arguments = {key: str(v) if isinstance(v, special) else v for key, v in vars(options).items() if key != "run"}
    source = setting.source
    return {
        "command": "eval",
        "arguments": arguments,
        "model": {"name": source.name, "weights": source.weights, "pretrained_cfg": source.pretrained_cfg},
        "data": {
            "config": setting.data_config,
            "classes": list(setting.tree.classes),
            "calibration": _calibration_as_json(options, setting),
            "evaluation": {
                "folder": str(setting.evaluation.samples.root),
                "found": len(setting.tree.evaluation),
                "used": len(setting.evaluation.samples),
            },
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
        "calibration_seconds": seconds,
        "results": {"float": reference.as_json(), "quantised": row.as_json()},
        "environment": describe_environment(),
    }
