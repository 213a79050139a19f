"""``fxquant train MODEL --data DIR --out DIR``: quantisation-aware training of a timm model on an image folder."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

import fxquant
from fxquant.checkpoint import count_file_bytes
from fxquant.cli.options.train import training_options
from fxquant.cli.output import format_table, print_facts
from fxquant.cli.resolve import arguments_as_json, build_chosen_model, resolve_recipe, start_run
from fxquant.cli.saved import save_with_card
from fxquant.cli.setting import print_unreadable, share_unreadable
from fxquant.cli.train_data import Folder, read_folder, training_data
from fxquant.config.quant_config import QuantConfig
from fxquant.config.trainable import refuse_untrainable
from fxquant.distributed import first_then_others, on_every_rank, only_first, rank, work_as_one, world_size
from fxquant.errors import CheckpointError, ConfigError
from fxquant.files import json_report
from fxquant.graph.card import MeasuredAccuracy, ModelCard, UsedRecipe, used_recipe
from fxquant.measurement.environment import describe_environment
from fxquant.measurement.experiment import count_bytes
from fxquant.measurement.option_values import format_value
from fxquant.models.timm_model import TimmModel
from fxquant.training import TrainingData, TrainingOptions, initialise_scales, load_trained, refuse_run, train
from fxquant.training.loop import CHECKPOINT, refuse_held
from fxquant.training.schedule import EpochPass, plan_passes
from fxquant.training.validation import Accuracy, measure_accuracy

# Long enough for one rank to write a checkpoint or to load its first images, short enough to notice that another is gone.
_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True, eq=False)
class _Setting:
    """Everything that was resolved before the first image was looked at."""

    config: QuantConfig
    identity: dict[str, Any]
    recipe: UsedRecipe
    training: TrainingOptions
    source: TimmModel
    folder: Folder
    passes: tuple[EpochPass, ...] = ()  # where it is trained


def run(options: argparse.Namespace) -> None:
    """Train, or measure what was trained; print, save and write what was asked for."""
    start_run(options)
    if options.out is None and not isinstance(options.evaluate, Path):
        raise ConfigError("--out DIR says where the training is kept; only --evaluate FILE does without")
    with work_as_one(options.device, _TIMEOUT) as device:
        setting = on_every_rank(lambda: _resolve(options))  # what is refused is said once
        with json_report(options.json if rank() == 0 else None) as report:
            print_facts(_describe(options, setting, device))
            for note in setting.folder.tree.notes:
                print(f"note: {note}")
            _run(options, setting, device, report)


def _run(options: argparse.Namespace, setting: _Setting, device: torch.device, report: dict[str, Any]) -> None:
    model = setting.source.model.to(device)
    rows: list[_Row] = []
    prepared = fxquant.prepare_qat(
        model, setting.config, setting.folder.calibration[:1].to(device), drop_path=options.drop_path
    )
    data = None if options.evaluate is not None else _training_data(options, setting, prepared)
    averaged = None if data is not None else _load(options, setting, prepared)
    if not _is_random(setting.source):
        rows.append(_measure("float", model, setting, device, size=count_bytes(model)))
    history: tuple[dict[str, Any], ...] = ()
    if data is not None:
        history, averaged = _train(options, setting, prepared, data)
    report |= _as_json(options, setting, history)
    name = f"W{options.w_bits}A{options.a_bits}"
    rows.append(_measure(f"{name} trained", prepared, setting, device))
    if averaged is not None:
        rows.append(_measure(f"{name} average", averaged, setting, device))
    gm = fxquant.convert(averaged or prepared)
    rows.append(_measure(f"{name} int8", gm, setting, device, size=count_file_bytes(gm)))
    share_unreadable(setting.folder.evaluation)
    _print_table(rows)
    print_unreadable(setting.folder.evaluation)
    report["results"] = {row.name: row.as_json() for row in rows}
    if options.save:
        only_first(save_with_card, gm, options.save, _card(options, setting, rows))
        print(f"\nsaved {options.save}")


@dataclass(frozen=True)
class _Row:
    name: str
    accuracy: Accuracy
    size: int | None  # bytes

    def as_json(self) -> dict[str, Any]:
        """Return the row's numbers with their units in the keys."""
        return {
            "top1_percent": self.accuracy.top1,
            "top5_percent": self.accuracy.top5,
            "images": self.accuracy.count,
            "size_bytes": self.size,
        }


def _measure(name: str, model: nn.Module, setting: _Setting, device: torch.device, size: int | None = None) -> _Row:
    accuracy = measure_accuracy(model, setting.folder.evaluation, device, name)
    print(f"{name} model: {accuracy}", flush=True)
    return _Row(name, accuracy, size)


def _training_data(options: argparse.Namespace, setting: _Setting, prepared: fx.GraphModule) -> TrainingData:
    """Return what is trained on; raise what `train` is going to refuse, before anything is measured."""
    data = training_data(options, setting.folder, setting.source.num_classes, setting.training)
    refuse_run(prepared, data, setting.training, options.out, **_run_options(options, setting))
    return data


def _run_options(options: argparse.Namespace, setting: _Setting) -> dict[str, Any]:
    return {
        "resume": options.resume,
        "checkpoint_minutes": options.checkpoint_minutes,
        "identity": {**setting.identity, "drop_path": options.drop_path},
        "tensorboard": options.tensorboard,
    }


def _train(
    options: argparse.Namespace, setting: _Setting, prepared: fx.GraphModule, data: TrainingData
) -> tuple[tuple[dict[str, Any], ...], fx.GraphModule | None]:
    """Return the numbers of all passes, and the averaged model."""
    try:
        result = train(
            prepared,
            data,
            setting.training,
            folder=options.out,
            workers=options.workers,
            **_run_options(options, setting),
        )
    except KeyboardInterrupt:
        if (options.out / CHECKPOINT).exists():
            place = options.out / CHECKPOINT
            only_first(print, f"\nthe same command with --resume goes on from {place}", file=sys.stderr)
        raise
    return result.history, result.averaged


def _load(options: argparse.Namespace, setting: _Setting, prepared: fx.GraphModule) -> fx.GraphModule | None:
    """Load the checkpoint that is to be measured; return the averaged model, where it holds one."""
    initialise_scales(prepared, setting.folder.calibration, setting.training.seed)
    return load_trained(prepared, _evaluated(options), setting.identity)


def _resolve(options: argparse.Namespace) -> _Setting:
    """Check and load everything, what is quickest to refuse first."""
    training = training_options(options)
    config, recipe_options = resolve_recipe(options)
    try:
        refuse_untrainable(config)
    except ConfigError as error:
        raise ConfigError(f"recipe {options.recipe!r} cannot be trained, vvtq can: {error}") from error
    _refuse_files(options)
    folder = read_folder(options)
    source = first_then_others(lambda: build_chosen_model(options))  # which may download
    folder = folder.with_model(options, source)
    identity = {
        "model": source.name,
        "num_classes": source.num_classes,
        "input_size": list(folder.config.input_size),
        "recipe": options.recipe,
        "w_bits": options.w_bits,
        "a_bits": options.a_bits,
        "recipe_options": ", ".join(f"{n}={format_value(v)}" for n, v in sorted(recipe_options.items())) or "none",
    }
    passes: tuple[EpochPass, ...] = ()
    if options.evaluate is None:
        several = options.soft_labels is not None and training.crops > 1
        passes = plan_passes(training, len(folder.tree.calibration), several, world_size())
    used = used_recipe(options.recipe, options.w_bits, options.a_bits, recipe_options)
    return _Setting(config, identity, used, training, source, folder, passes)


def _refuse_files(options: argparse.Namespace) -> None:
    """Refuse what is to be read and is not there, and what is to be written and cannot be."""
    if options.evaluate is not None and not _evaluated(options).is_file():
        raise CheckpointError(f"--evaluate: checkpoint {str(_evaluated(options))!r} does not exist")
    if isinstance(options.resume, Path) and not options.resume.is_file():
        raise CheckpointError(f"--resume: checkpoint {str(options.resume)!r} does not exist")
    if options.evaluate is None:
        refuse_held(options.out, options.resume)


def _describe(options: argparse.Namespace, setting: _Setting, device: torch.device) -> dict[str, str]:
    source, folder, training = setting.source, setting.folder, setting.training
    ranks = f", {world_size()} processes" if world_size() > 1 else ""
    facts = {
        "model": f"{source}, on {device}{ranks}",
        "weights": _weights(options, source),
        "input": str(folder.config),
        "quantise": f"recipe {options.recipe}, W{options.w_bits}A{options.a_bits}",
        "evaluate": f"{folder.held_out} images in {folder.tree.evaluation.root}, {len(folder.tree.classes)} classes",
    }
    if options.evaluate is not None:
        return facts
    labels = f"in {options.soft_labels}" if options.soft_labels else "of the folder"
    return facts | {
        "train": f"{len(folder.tree.calibration)} images in {folder.tree.calibration.root}, {_crops(setting)}, labels {labels}",
        "schedule": f"{training.epochs} epochs, batches of {training.batch_size}, learning rate {training.lr:g}, "
        f"seed {training.seed}; kept in {options.out}",
    }


def _crops(setting: _Setting) -> str:
    """Return how many crops of each image a pass shows."""
    shown, asked = max(now.crops for now in setting.passes), setting.training.crops
    if shown > 1:
        return f"{shown} crops of each"
    if any(now.lr_epoch > now.epoch for now in setting.passes):  # several were asked for
        return f"one crop of each, as {setting.training.epochs} epochs are too few for a pass of {asked}"
    return "one crop of each"


def _weights(options: argparse.Namespace, source: TimmModel) -> str:
    if options.evaluate is not None:
        return f"checkpoint {_evaluated(options)}"
    return "random, trained from scratch" if _is_random(source) else source.weights


def _is_random(source: TimmModel) -> bool:
    return source.weights.startswith("RANDOM")


def _evaluated(options: argparse.Namespace) -> Path:
    return options.evaluate if isinstance(options.evaluate, Path) else Path(options.out) / CHECKPOINT


def _print_table(rows: list[_Row]) -> None:
    lines = []
    for row in rows:
        top5, size = row.accuracy.top5, row.size
        cells = ["" if top5 is None else f"{top5:.2f}", "" if size is None else f"{size / 1e6:.2f}"]
        lines.append([row.name, f"{row.accuracy.top1:.2f}", *cells])
    print("\n" + format_table(["", "top-1 %", "top-5 %", "size MB"], lines), flush=True)


def _as_json(options: argparse.Namespace, setting: _Setting, history: Any) -> dict[str, Any]:
    facts = {"command": "train", "arguments": arguments_as_json(options), "identity": setting.identity}
    return facts | {"training": asdict(setting.training), "history": history, "environment": describe_environment()}


def _card(options: argparse.Namespace, setting: _Setting, rows: list[_Row]) -> ModelCard:
    """Return what is saved beside the model; its rows begin with the float model, where that was measured, and end with it."""
    source, accuracy = setting.source, rows[-1].accuracy
    before = rows[0].accuracy.top1 if rows[0].name == "float" else None
    measured = MeasuredAccuracy(accuracy.top1, before, accuracy.count, options.data.resolve().name)
    config, names = setting.folder.config, setting.folder.tree.classes
    names = names if len(names) == source.num_classes else ()
    return ModelCard(source.name, config, source.num_classes, names, setting.recipe, measured)
