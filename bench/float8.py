"""
What float8 codes cost beside int8: the same recipes with both on the model of ``bench.real``.

Run ``python -m bench.float8`` to write ``bench/results/float8.json``. Products of two activations stay float in both. Rows that
are there already are kept, unless ``--again`` measures them anew. Needs the extra ``real``.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import torch

import fxquant
from bench.harness.results import Row, RowsFile
from bench.real.proving import HELD_OUT, load_probe, measure
from bench.real.settings import CALIBRATION_IMAGES, TEST_IMAGES

PX = 112


class CodesForm(NamedTuple):
    """A recipe, its codes, and whether the patch embedding is quantised too."""

    recipe: str
    codes: str
    patch_embed: bool


FORMS = tuple(
    CodesForm(recipe, codes, image)
    for recipe in ("minmax", "default")
    for codes, image in (("int", True), ("int", False), ("e4m3", True), ("e4m3", False))
)


def main(arguments: list[str] | None = None) -> None:
    """Measure every form from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=TEST_IMAGES, help="glyphs to read (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--again", action="store_true", help="also forms that were measured before")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    facts = {"images": options.images, "calib": CALIBRATION_IMAGES, "px": PX, "format": f"{options.images} images"}
    file = RowsFile("float8", CodesForm._fields, facts, _place)
    known = set() if options.again else {_form(row) for row in file.read()}
    model, batches, images, labels = load_probe(PX, HELD_OUT, options.images)
    for form in FORMS:
        if form not in known:
            quantized = fxquant.quantize(
                model, batches, form.recipe, progress=False, codes=form.codes, patch_embed=form.patch_embed
            )
            error, top1, float_top1 = measure(model, quantized, images, labels)
            figures = {"error": round(error, 4), "top1": round(top1, 1), "float_top1": round(float_top1, 1)}
            file.add(form._asdict() | figures)
            print(form, figures, flush=True)


def _form(row: Row) -> CodesForm:
    return CodesForm(*(row[name] for name in CodesForm._fields))


def _place(row: Row) -> int:
    return FORMS.index(_form(row))


if __name__ == "__main__":
    main()
