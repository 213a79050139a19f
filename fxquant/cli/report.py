"""``fxquant report FILE``: what of a saved model runs on int8, what does not, and why."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict

import fxquant
from fxquant.cli.output import print_facts
from fxquant.files import STANDARD_OUTPUT, json_report, refuse_unwritable


def run(options: argparse.Namespace) -> None:
    """Load the file, print its report and write what was asked for."""
    if options.json not in (None, STANDARD_OUTPUT):
        refuse_unwritable(options.json)
    with json_report(options.json) as facts:
        gm, size = fxquant.load(options.file), os.path.getsize(options.file)
        report = fxquant.report(gm)
        print_facts({"file": f"{options.file}, {size / 1e6:.2f} MB"} | gm.card.describe())
        print(f"\n{report}")
        facts |= {
            "command": "report",
            "file": options.file,
            "size_bytes": size,
            "card": asdict(gm.card),
            "stage": report.stage,
            "float_dtype": report.float_dtype,
            "int8_coverage": report.coverage,
            "rounded": list(report.rounded),
            "products": [asdict(record) for record in report],
        }
