"""``fxquant quantize MODEL --data DIR --out F``: a timm model, calibrated, converted and saved."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import fxquant
from fxquant.cli.output import print_facts
from fxquant.cli.rows import describe_calibration
from fxquant.cli.saved import save_with_card
from fxquant.cli.setting import (
    add_device_options,
    add_setting_options,
    describe_setting,
    print_unreadable,
    resolve_setting,
    setting_as_json,
)
from fxquant.cli.shared_options import DTYPES, add_run_options, start_run
from fxquant.distributed import from_first, rank, resolve_device
from fxquant.files import json_report
from fxquant.measurement.environment import describe_environment
from fxquant.measurement.experiment import Task, calibrate_model

DESCRIPTION = """
Quantise a timm model and save it, with images of an ImageFolder tree, or without any: --calib noise, synthetic or a file of
images needs no --data. fxquant eval with the same options draws the same images and measures the model as well. The file also
holds how images are prepared, and the names of the classes. Several processes share the work under torchrun: torchrun
--nproc-per-node N -m fxquant quantize ... saves the model that one process would. Images that cannot be read are skipped and
named; more than 1 % of them are an error.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.set_defaults(run=run, shares=True)
    add_setting_options(parser, evaluated=False)
    parser.add_argument("--out", dest="save", type=Path, required=True, metavar="F", help="the .safetensors file")
    parser.add_argument("--dynamic", action="store_true", help="a graph for images of any height and width")
    add_device_options(parser.add_argument_group("calibration"))
    add_run_options(parser)


def run(options: argparse.Namespace) -> None:
    """Calibrate, convert and save the model, and print what of it runs on int8."""
    start_run(options)
    with json_report(options.json if rank() == 0 else None) as facts:
        _run(options, facts)


def _run(options: argparse.Namespace, facts: dict[str, Any]) -> None:
    device, dtype = resolve_device(options.device), DTYPES[options.dtype]
    setting = resolve_setting(options, evaluated=False)
    print_facts(describe_setting(options, setting))
    for note in setting.notes:
        print(f"note: {note}")
    model = setting.source.model.to(device=device, dtype=dtype)
    dynamic = ("height", "width") if options.dynamic else ()
    task = Task(model, setting.calibration, (), device, dtype, options.seed, dynamic)
    prepared, seconds = calibrate_model(task, setting.config, options.memory, setting.reconstruction)
    print(f"\n{describe_calibration(prepared, setting.calibration.count, seconds)}")
    gm = fxquant.convert(prepared, options.target, options.strict)
    report = fxquant.report(gm)
    facts |= {"command": "quantize", **setting_as_json(options, setting), "calibration_seconds": seconds}
    facts |= {"int8_coverage": report.coverage, "environment": describe_environment()}
    print(str(report).partition("\n")[0])  # without the table
    size = from_first(lambda: save_with_card(gm, options.save, setting.card))
    facts["size_bytes"] = size
    print(f"saved {options.save}, {size / 1e6:.2f} MB")
    print_unreadable(setting.calibration)
