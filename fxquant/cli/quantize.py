"""``fxquant quantize MODEL --data DIR --out F``: a timm model, calibrated, converted and saved."""

from __future__ import annotations

import argparse
from typing import Any

import fxquant
from fxquant.cli.auto import chosen_config
from fxquant.cli.output import print_facts
from fxquant.cli.resolve import chosen_dtype, start_run
from fxquant.cli.rows import describe_calibration
from fxquant.cli.saved import save_with_card
from fxquant.cli.setting import describe_setting, print_unreadable, resolve_setting, setting_as_json
from fxquant.distributed import from_first, rank, resolve_device
from fxquant.files import json_report
from fxquant.measurement.environment import describe_environment
from fxquant.measurement.experiment import Task, calibrate_model

SHARES_WORK = True  # processes that torchrun starts form a group before anything is read


def run(options: argparse.Namespace) -> None:
    """Calibrate, convert and save the model, and print what of it runs on int8."""
    start_run(options)
    with json_report(options.json if rank() == 0 else None) as facts:
        _run(options, facts)


def _run(options: argparse.Namespace, facts: dict[str, Any]) -> None:
    device, dtype = resolve_device(options.device), chosen_dtype(options)
    setting = resolve_setting(options, evaluated=False)
    print_facts(describe_setting(options, setting))
    for note in setting.notes:
        print(f"note: {note}")
    model = setting.source.model.to(device=device, dtype=dtype)
    dynamic = ("height", "width") if options.dynamic else ()
    task = Task(model, setting.calibration, (), device, dtype, options.seed, dynamic)
    config = chosen_config(model, setting.config, setting.calibration, options, facts)
    prepared, seconds = calibrate_model(task, config, options.memory, setting.reconstruction)
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
