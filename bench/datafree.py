"""
What calibration images have to be: real ones, images made from the model alone, or noise, on the stand-ins.

``python -m bench.datafree`` calibrates each recipe at W8A8 and W4A8 on 32 images of each kind and writes
``bench/results/datafree.json`` and the table of ``docs/data-free.md``. Cells that are there already are skipped.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

import fxquant
from bench.accuracy.measure import build_model, draw_calibration
from bench.harness.results import Row, open_cells, results_file
from bench.quality_tables import SOURCES
from bench.standins import IMAGE_SIZE, STANDINS, Glyphs, load_part
from bench.tables import write_pages
from fxquant.numerics.arithmetic import sqnr
from fxquant.synthesis import gaussian_images
from fxquant.synthesis.losses import total_variation

FILE = results_file("datafree")
RECIPES = (
    "psaq",
    "minmax",
    "percentile",
    "omse",
    "fqvit",
    "itpn",
    "base_ptq",
    "ptq4vit",
    "noisyquant",
    "noisyquant_ptq4vit",
)
BITS = ("W8A8", "W4A8")
COUNT, BATCH, TEST_BATCH = 32, 8, 64
SHAPE = (1, IMAGE_SIZE, IMAGE_SIZE)
JITTER = (2, 4)  # the published one is of images of 224 pixels


def images_of(source: str, model: nn.Module, seed: int, iterations: int) -> Tensor:
    """Return calibration images ``(32, 1, 32, 32)`` of a source."""
    if source == "real":
        return draw_calibration(load_part("calibration").images, COUNT, seed)
    if source == "noise":
        return gaussian_images(COUNT, SHAPE, seed)
    progress = sys.stderr.isatty()
    options: Row = {"size": SHAPE, "jitter": JITTER, "iterations": iterations, **glyph_prior()}
    return fxquant.synthesize(model, COUNT, seed=seed, progress=progress, **options)


@cache
def glyph_prior() -> Row:
    """
    Return what synthesis is told of glyphs as its authors told it of photographs: the range of pixels, and total variation.

    Both are of training images. The glyphs' distortions leave no black and white: the range is what occurs.
    """
    images = load_part("train", 32 * 30).images
    low, high = float(images.min()), float(images.max())
    std = 1 / (high - low)
    variations = [float(total_variation(batch)) for batch in images.split(32)]
    unit = math.sqrt(1 / 3) * IMAGE_SIZE / 224  # of the target for one channel and this size
    return {"mean": (-low * std,), "std": (std,), "tv_target": (min(variations) / unit, max(variations) / unit)}


def logits_of(model: nn.Module, test: Glyphs) -> Tensor:
    """Return the logits ``(B, classes)`` of all test images."""
    with torch.no_grad():
        return torch.cat([model(images) for images, _ in test.batches(TEST_BATCH)])


def measure(model: nn.Module, recipe: str, bits: str, images: Tensor, test: Glyphs, seed: int) -> Row:
    """Return the int8 model's top-1 accuracy in percent and the SQNR of its logits in dB."""
    config = fxquant.recipe(recipe, int(bits[1]), int(bits[3]))
    prepared = fxquant.calibrate(fxquant.prepare(model, config), images.split(BATCH), progress=False, seed=seed)
    expected, found = logits_of(model, test), logits_of(fxquant.convert(prepared), test)
    return {"top1": top1(found, test), "sqnr_db": round(sqnr(expected, found), 3)}


def top1(logits: Tensor, test: Glyphs) -> float:
    """Return the share of images in their class, in percent."""
    return round(100 * float((logits.argmax(1) == test.labels).double().mean()), 3)


def cells(
    models: Sequence[str], recipes: Sequence[str], seeds: Sequence[int]
) -> Iterator[tuple[int, str, str, str, str]]:
    """Yield seed, model, source, recipe and bits of each cell, those that share images together."""
    for seed in seeds:
        for model in models:
            for source in SOURCES:
                yield from ((seed, model, source, recipe, bits) for recipe in recipes for bits in BITS)


def run(options: argparse.Namespace, folder: Path) -> None:
    """Measure the cells that the results lack, writing after each."""
    test = load_part("test", options.limit)
    settings = {
        "images": COUNT,
        "test_images": len(test),
        "iterations": options.iterations,
        "outliers": options.outliers,
    }
    results = open_cells(options.out, settings)
    for seed, name, source, recipe, bits in cells(options.models, options.recipes, options.seeds):
        key = f"{name} {bits} {recipe} {source} seed {seed}"
        if key in results.rows:
            continue
        model = build_model(name, options.outliers)
        if name not in results.floats:
            results.floats[name] = top1(logits_of(model, test), test)
        file = folder / f"{name} {source} {seed}.pt"
        if not file.exists():
            torch.save(images_of(source, model, seed, options.iterations), file)
        row = measure(model, recipe, bits, torch.load(file, weights_only=True), test, seed)
        print(key, row, flush=True)
        results.add(key, row)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(STANDINS), choices=list(STANDINS))
    parser.add_argument("--recipes", nargs="+", default=RECIPES, choices=fxquant.recipes(), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=250, help="of each of the two rounds (%(default)s)")
    parser.add_argument("--outliers", choices=("without", "with"), default="without", help="channels injected")
    parser.add_argument("--limit", type=int, default=2480, metavar="N", help="test images (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        run(options, Path(folder))
    if options.out == FILE:
        write_pages()


if __name__ == "__main__":
    main()
