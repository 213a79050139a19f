"""
What each operand of a real model costs, and what configs by a budget give: `fxquant.sensitivity` and `fxquant.mixed`.

Run ``python -m bench.mixed`` to write ``bench/results/mixed.json``. Configs are chosen on the calibration images of the model
of ``bench.real`` and measured on images that were held out. Needs the extra ``real``.
"""

from __future__ import annotations

import argparse

import torch

import fxquant
from bench.harness.results import Row, write_results
from bench.real.proving import HELD_OUT, load_probe, measure
from bench.real.settings import CALIBRATION_IMAGES, TEST_IMAGES
from fxquant.precision.precision_budget import Cost

PX = 112
RECIPE, W_BITS, A_BITS = "minmax", 6, 6
BUDGETS = ("error=0.1,int8=0.9", "error=0.06,int8=0.9")


def main(arguments: list[str] | None = None) -> None:
    """Measure all parts, then every budget, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=TEST_IMAGES, help="glyphs to read (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model, batches, images, labels = load_probe(PX, HELD_OUT, options.images)
    config = fxquant.recipe(RECIPE, W_BITS, A_BITS)

    costs = fxquant.sensitivity(model, batches, config, by="kind", exact=None, joint=0, progress=False)
    parts = [{"part": each.name, "alone": each.alone, "saves": each.saves} for each in costs]
    rows: list[Row] = []
    for budget in (None, *BUDGETS):
        row: Row = {"budget": budget, "mean_bits": float(W_BITS), "calibration_error": costs.error}
        chosen = config
        if budget is not None:
            found = fxquant.mixed(model, batches, budget, config, points=0, progress=False)
            chosen = found.config
            row |= {"mean_bits": found.point.costs[Cost.MEAN_BITS], "calibration_error": found.point.error}
        int8 = fxquant.quantize(model, batches, chosen, progress=False)
        error, top1, float_top1 = measure(model, int8, images, labels)
        rows.append(row | {"error": error, "top1": top1, "int8": fxquant.report(int8).coverage})
        print(rows[-1], flush=True)
        facts = {"float_top1": float_top1, "images": options.images, "calib": CALIBRATION_IMAGES, "px": PX}
        write_results("mixed", rows, **facts, recipe=f"{RECIPE} W{W_BITS}A{A_BITS}", all_parts=costs.error, parts=parts)


if __name__ == "__main__":
    main()
