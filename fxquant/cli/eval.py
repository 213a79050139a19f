"""``fxquant eval MODEL --data DIR``: a timm model on an image folder, float and quantised side by side."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

from fxquant.cli.auto import chosen_config
from fxquant.cli.eval_saved import evaluate_saved
from fxquant.cli.options.eval import add_arguments
from fxquant.cli.output import print_facts
from fxquant.cli.resolve import chosen_dtype, describe_codes, start_run
from fxquant.cli.rows import describe_calibration, format_rows
from fxquant.cli.saved import is_saved, refuse_model_options, save_with_card
from fxquant.cli.setting import (
    Setting,
    describe_setting,
    print_unreadable,
    resolve_setting,
    setting_as_json,
    share_unreadable,
)
from fxquant.data.batches import ImageBatches
from fxquant.diagnosis.normalisation import better_normalisation, spread
from fxquant.distributed import from_first, only_first, rank, resolve_device
from fxquant.files import json_report
from fxquant.graph.card import MeasuredAccuracy
from fxquant.measurement.environment import describe_environment
from fxquant.measurement.experiment import Row, Task, calibrate_model, measure_converted, measure_float

SHARES_WORK = True  # processes that torchrun starts form a group before anything is read


def run(options: argparse.Namespace) -> None:
    """Measure the float model, quantise it, measure that; print, save and write what was asked for."""
    start_run(options)
    if is_saved(options.model):
        refuse_model_options(options, _defaults(options))
    with json_report(options.json if rank() == 0 else None) as report:
        if is_saved(options.model):
            evaluate_saved(options, report)
        else:
            _measure_both(options, report)


def _defaults(options: argparse.Namespace) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([options.model, "--data", str(options.data)])


def _measure_both(options: argparse.Namespace, report: dict[str, Any]) -> None:
    device, dtype = resolve_device(options.device), chosen_dtype(options)
    setting = resolve_setting(options, evaluated=True)
    print_facts(_describe(options, setting))
    for note in setting.notes:
        print(f"note: {note}")
    model = setting.source.model.to(device=device, dtype=dtype)
    _, evaluation = setting.measured
    task = Task(model, setting.calibration, evaluation, device, dtype, options.seed)

    reference = measure_float(task, options.dtype)
    share_unreadable(evaluation)
    report |= _as_json(options, setting, reference)
    print(f"\nfloat model: top-1 {reference.evaluation.top1:.2f} %")
    _warn_at_chance(reference, setting)
    _warn_of_preprocessing(task, evaluation, setting)
    config = chosen_config(model, setting.config, setting.calibration, options, report)
    prepared, seconds = calibrate_model(task, config, options.memory, setting.reconstruction)
    print(f"{describe_calibration(prepared, setting.calibration.count, seconds)}\n")
    name = describe_codes(options)
    gm, row = measure_converted(
        task,
        prepared,
        reference.evaluation,
        name,
        target=options.target,
        strict=options.strict,
        compiled=options.compile,
    )
    report["calibration_seconds"], report["results"]["quantised"] = seconds, row.as_json()
    print(format_rows([reference, row]))
    print_unreadable(setting.calibration, evaluation)
    if options.save:
        accuracy = _accuracy(options, reference, row)
        size = from_first(lambda: save_with_card(gm, options.save, setting.card, accuracy))
        row = replace(row, size=None if row.size is None else size)  # with what the file says of itself
        report["results"]["quantised"] = row.as_json()
        print(f"\nsaved {options.save}, {size / 1e6:.2f} MB")


def _describe(options: argparse.Namespace, setting: Setting) -> dict[str, str]:
    facts = describe_setting(options, setting)
    quantise = facts.pop("quantise")
    tree, batches = setting.measured
    evaluation = batches.samples
    apart = ", none of them a calibration image" if tree.shared else ""
    measured = {
        "evaluate": f"{len(evaluation)} of {len(tree.evaluation)} images in {evaluation.root}{apart}, "
        f"{len(tree.classes)} classes",
    }
    return facts | measured | {"quantise": quantise}


def _warn_at_chance(row: Row, setting: Setting) -> None:
    """Say loudly where a trained model is no better than guessing: it is the folder or the preprocessing."""
    tree, _ = setting.measured
    chance = 100 / max(len(tree.classes), 1)
    if row.evaluation.top1 < 1.5 * chance and not setting.source.weights.startswith("RANDOM"):
        only_first(
            print,
            f"fxquant: warning: the float model is at chance level ({chance:.2f} %): check the class order, the input line "
            "above and the checkpoint before reading anything into the quantised result",
            file=sys.stderr,
        )


def _accuracy(options: argparse.Namespace, reference: Row, row: Row) -> MeasuredAccuracy:
    measured = row.evaluation
    return MeasuredAccuracy(measured.top1, reference.evaluation.top1, measured.count, options.data.resolve().name)


def _warn_of_preprocessing(task: Task, evaluation: ImageBatches, setting: Setting) -> None:
    """Say where another normalisation would do clearly better, for a trained model."""
    if setting.source.weights.startswith("RANDOM"):
        return
    better = from_first(lambda: better_normalisation(task.model, spread(evaluation), evaluation.config))
    if better is not None:
        only_first(print, f"fxquant: warning: {better}", file=sys.stderr)


def _as_json(options: argparse.Namespace, setting: Setting, reference: Row) -> dict[str, Any]:
    facts = setting_as_json(options, setting)
    tree, evaluation = setting.measured
    facts["data"]["evaluation"] = {
        "folder": str(evaluation.samples.root),
        "found": len(tree.evaluation),
        "used": reference.evaluation.count,
        "unreadable": evaluation.unreadable.as_json(),
    }
    results = {"float": reference.as_json()}
    return {"command": "eval", **facts, "results": results, "environment": describe_environment()}
