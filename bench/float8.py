"""
What float8 codes cost beside int8: the same recipes with both on the model of ``bench.real``.

Run ``python -m bench.float8`` to write ``bench/results/float8.json``. Products of two activations stay float in both. Needs the
extra ``real``.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

import fxquant
from bench.harness.results import Row, write_results
from bench.real.proving import HELD_OUT, load_probe, measure
from bench.real.settings import CALIBRATION_IMAGES, TEST_IMAGES

PX = 112
E4M3: dict[str, Any] = {"codes": "e4m3"}
FORMS: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("minmax", {}), ("minmax", E4M3), ("minmax", E4M3 | {"patch_embed": True})),
    *(("dynamic", {}), ("dynamic", E4M3)),
    *(("erq", {}), ("erq", E4M3)),
    *(("default", {}), ("default", E4M3), ("default", E4M3 | {"patch_embed": True})),
)


def main(arguments: list[str] | None = None) -> None:
    """Measure every form from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=TEST_IMAGES, help="glyphs to read (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model, batches, images, labels = load_probe(PX, HELD_OUT, options.images)
    rows: list[Row] = []
    for recipe, given in FORMS:
        quantized = fxquant.quantize(model, batches, recipe, progress=False, **given)
        error, top1, float_top1 = measure(model, quantized, images, labels)
        rows.append({"recipe": recipe, "options": given, "error": round(error, 4), "top1": round(top1, 1)})
        print(rows[-1], flush=True)
        facts = {"float_top1": round(float_top1, 1), "images": options.images, "calib": CALIBRATION_IMAGES}
        write_results("float8", rows, **facts, px=PX)


if __name__ == "__main__":
    main()
