"""``fxquant inspect MODEL --data DIR --html F``: one page on what quantisation makes of a model, layer by layer."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fxquant
from fxquant.cli.options.inspect import add_arguments
from fxquant.cli.output import print_facts
from fxquant.cli.resolve import chosen_dtype, start_run
from fxquant.cli.rows import describe_calibration
from fxquant.cli.saved import is_saved, load_saved, refuse_model_options
from fxquant.cli.setting import describe_setting, print_unreadable, resolve_setting
from fxquant.distributed import resolve_device
from fxquant.errors import InputError
from fxquant.files import json_report, refuse_unwritable, scratch_folder
from fxquant.graph.card import ModelCard, used_recipe
from fxquant.graph.inputs import Arguments, moved
from fxquant.graph.meta import set_card
from fxquant.inspection.inspect import Inspection
from fxquant.measurement.experiment import Task, calibrate_model


def run(options: argparse.Namespace) -> None:
    """Write the page, and what it shows as JSON where that is asked for."""
    start_run(options)
    refuse_unwritable(options.html)
    if options.shares and not options.images:
        raise InputError("--shares is measured on images: give --images 1 or more")
    with json_report(options.json) as facts:
        inspection = _saved(options) if is_saved(options.model) else _quantised(options)
        inspection.save(options.html)
        print(f"wrote {options.html}, {os.path.getsize(options.html) / 1e6:.2f} MB")
        facts |= {"command": "inspect", **inspection.to_dict()}


def _saved(options: argparse.Namespace) -> Inspection:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    refuse_model_options(options, parser.parse_args([options.model, "--html", str(options.html)]))
    for name in ("data", "time", "shares", "passes"):
        if getattr(options, name):
            raise InputError(
                f"--{name} needs the float model, which {options.model} does not hold: name the timm model instead"
            )
    gm = load_saved(options.model, resolve_device(options.device))
    print_facts({"file": options.model} | gm.card.describe())
    return fxquant.inspect(gm)


def _quantised(options: argparse.Namespace) -> Inspection:
    device, dtype = resolve_device(options.device), chosen_dtype(options)
    setting = resolve_setting(options, evaluated=False)
    print_facts(describe_setting(options, setting))
    for note in setting.notes:
        print(f"note: {note}")
    model = setting.source.model.to(device=device, dtype=dtype)
    images = moved(Arguments.of(model).bind(next(iter(setting.calibration))), device, dtype)
    traced = fxquant.trace(model, images)
    task = Task(traced, setting.calibration, (), device, dtype, options.seed)
    with _listed_passes(options.passes) as folder:
        prepared, seconds = calibrate_model(task, setting.config, options.memory, setting.reconstruction)
        print(describe_calibration(prepared, setting.calibration.count, seconds))
        gm = fxquant.convert(prepared, options.target, options.strict)
        used = used_recipe(options.recipe, options.w_bits, options.a_bits, setting.recipe_options)
        set_card(gm, ModelCard(setting.source.name, setting.data_config, recipe=used))
        batch = {name: value[: options.images] for name, value in images.items()} if options.images else None
        compared = fxquant.compare(prepared, gm, [batch]) if options.shares and batch else None
        inspection = fxquant.inspect(
            *(traced, prepared, gm), images=batch, passes=folder or False, time=options.time, compared=compared
        )
    print_unreadable(setting.calibration)
    return inspection


@contextmanager
def _listed_passes(wanted: bool) -> Iterator[Path | None]:
    """Yield the folder that passes write their graphs to within the block, None where that is not `wanted`."""
    if not wanted:
        yield None
        return
    before = os.environ.get("FXQUANT_TRACE")
    with scratch_folder(tempfile.gettempdir()) as folder:
        os.environ["FXQUANT_TRACE"] = str(folder)
        try:
            yield folder
        finally:
            os.environ.pop("FXQUANT_TRACE")
            if before is not None:
                os.environ["FXQUANT_TRACE"] = before
