"""
What FQ-ViT's codes for probabilities cost: recipe ``fqvit`` with each kind of them on the model of ``bench.real``.

Run ``python -m bench.softmax_codes`` to write ``bench/results/softmax_codes.json``. Needs the extra ``real``.
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
FORMS: dict[str, dict[str, Any]] = {
    "log-int-softmax, 4 bits: `fqvit`": {},
    "powers of two, 4 bits": {"softmax": "log2"},
    "even steps": {"softmax": "uniform"},
    "even steps, no power-of-two factors: FQ-ViT's minmax placement": {"softmax": "uniform", "power_of_two": False},
}


def main(arguments: list[str] | None = None) -> None:
    """Measure every form from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=TEST_IMAGES, help="glyphs to read (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model, batches, images, labels = load_probe(PX, HELD_OUT, options.images)
    rows: list[Row] = []
    for form, given in FORMS.items():
        quantized = fxquant.quantize(model, batches, "fqvit", target="fake", progress=False, **given)
        error, top1, float_top1 = measure(model, quantized, images, labels)
        rows.append({"form": form, "options": given, "error": round(error, 4), "top1": round(top1, 1)})
        print(f"{form}: error {error:.3f}, top-1 {top1:.1f} %, float {float_top1:.1f} %", flush=True)
        facts = {"float_top1": round(float_top1, 1), "images": options.images, "calib": CALIBRATION_IMAGES}
        write_results("softmax_codes", rows, **facts, bits="W8A8", px=PX)


if __name__ == "__main__":
    main()
