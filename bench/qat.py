"""
What quantisation-aware training gives at 4, 3 and 2 bits on the stand-ins, and what each part of VVTQ adds to it.

``python -m bench.qat`` trains each stand-in by each method, from the same float weights on the same images in the same order,
and writes ``bench/results/qat.json`` and the table of ``docs/training.md``. Cells that are there already are
skipped, so that a run can be stopped and started again. First and last layers have 8 bits throughout, those of PTQ too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.data import default_collate

import fxquant
from bench.harness.results import Row, open_cells, results_file
from bench.standins import STANDINS, Glyphs, load_part, load_standin
from bench.tables import write_pages
from fxquant.config.quant_config import QuantConfig
from fxquant.distillation import LabelKind, SoftTargets, concatenate
from fxquant.measurement.evaluation import evaluate
from fxquant.training import TrainingData, TrainingOptions, train

FILE = results_file("qat")
CALIBRATION, TEST_BATCH, TOP = 64, 64, 5


@dataclass(frozen=True)
class Method:
    """One way to get a quantised model. ptq: the recipe that is calibrated in place of a training."""

    ptq: str | None = None
    gradient_scale: str = "variation"
    regulariser: bool = False
    distilled: bool = False


# Their names in the table: `bench.quality_tables.METHODS`.
METHODS = {
    "ptq-omse": Method(ptq="omse"),
    "ptq-ptq4vit": Method(ptq="ptq4vit"),
    "lsq": Method(gradient_scale="lsq"),
    "distilled": Method(distilled=True),
    "regularised": Method(regulariser=True),
    "vvtq": Method(regulariser=True, distilled=True),
}


class GlyphEpochs:
    """`size` training images in each epoch, others in the next, with labels or what a teacher says of them."""

    def __init__(self, glyphs: Glyphs, size: int, soft: Tensor | None) -> None:
        self.glyphs, self.size, self.soft = glyphs, size, soft
        self._start = 0

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """Choose the images of `epoch`."""
        self._start = (epoch * self.size) % (len(self.glyphs) - self.size + 1)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        place = self._start + index
        if self.soft is None:
            return self.glyphs.images[place], int(self.glyphs.labels[place])
        top = self.soft[place].topk(TOP)
        kind = LabelKind("marginal_smoothing_k5")
        return self.glyphs.images[place], SoftTargets(top.indices[None], top.values[None], self.soft.shape[1], kind)

    def collate(self, items: list[Any]) -> Any:
        """Return images ``(B, 1, 32, 32)`` with their labels."""
        if self.soft is None:
            return default_collate(items)
        return torch.stack([image for image, _ in items]), concatenate([targets for _, targets in items])


def ptq_config(recipe: str, bits: int) -> QuantConfig:
    """Return a recipe's config with 8 bits for the first and last layers."""
    config, wide = (fxquant.recipe(recipe, b, b, attention=True) for b in (bits, 8))
    overrides = tuple(replace(o, spec=w.spec) for o, w in zip(config.overrides, wide.overrides, strict=True))
    return replace(config, trunk=wide.layer, overrides=overrides)


def soft_labels(model: nn.Module, glyphs: Glyphs) -> Tensor:
    """Return the probabilities ``(B, classes)`` of the float model."""
    with torch.no_grad():
        return torch.cat([model(images).softmax(1) for images, _ in glyphs.batches(TEST_BATCH)])


def train_one(
    name: str, method: Method, bits: int, seed: int, glyphs: Glyphs, options: argparse.Namespace
) -> fx.GraphModule:
    """Return the trained model of one cell."""
    model = load_standin(name)
    config = fxquant.recipe("vvtq", bits, bits, gradient_scale=method.gradient_scale)
    prepared = fxquant.prepare_qat(model, config)
    soft = soft_labels(model, glyphs) if method.distilled else None
    data = TrainingData(
        GlyphEpochs(glyphs, options.images // options.epochs, soft), load_part("calibration", CALIBRATION).images
    )
    settings = TrainingOptions(
        epochs=options.epochs,
        batch_size=options.batch_size,
        crops=1,
        lr=options.lr,
        regulariser=method.regulariser,
        seed=seed,
    )
    return train(prepared, data, settings, progress=False).prepared


def calibrate_one(name: str, recipe: str, bits: int, seed: int) -> fx.GraphModule:
    """Return the calibrated model of one cell without training; the seed chooses the images."""
    model, start = load_standin(name), seed * CALIBRATION
    images = load_part("calibration", start + CALIBRATION).images[start:]
    prepared = fxquant.prepare(model, ptq_config(recipe, bits), images[:1])
    return fxquant.calibrate(prepared, images.split(16), progress=False, seed=seed)


def top1(model: nn.Module, test: Glyphs) -> float:
    """Return the share of test images in their class, in percent."""
    return round(evaluate(model, list(test.batches(TEST_BATCH)), description="test").top1, 3)


def cells(options: argparse.Namespace) -> Iterator[tuple[int, str, int, str]]:
    """Yield seed, stand-in, bits and method, so that a run that is stopped has whole rows."""
    for seed in options.seeds:
        for name in options.models:
            yield from ((seed, name, bits, method) for bits in options.bits for method in options.methods)


def run(options: argparse.Namespace) -> None:
    """Measure the cells that the results lack, writing after each."""
    test, glyphs = load_part("test", options.limit), load_part("train", options.images)
    names = ("images", "epochs", "batch_size", "lr", "limit")
    settings = {name: getattr(options, name) for name in names} | {"test_images": len(test)}
    results = open_cells(options.out, settings)
    for seed, name, bits, key in cells(options):
        cell, method = f"{name} W{bits}A{bits} {key} seed {seed}", METHODS[key]
        if cell in results.rows:
            continue
        if name not in results.floats:
            results.floats[name] = top1(load_standin(name), test)
        start = time.perf_counter()
        if method.ptq is not None:
            prepared = calibrate_one(name, method.ptq, bits, seed)
        else:
            prepared = train_one(name, method, bits, seed, glyphs, options)
        seconds = round(time.perf_counter() - start, 1)
        row: Row = {"top1": top1(fxquant.convert(prepared), test), "seconds": seconds}
        print(cell, row, flush=True)
        results.add(cell, row)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(STANDINS), choices=list(STANDINS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--bits", nargs="+", type=int, default=[4, 3, 2])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=12_800, metavar="N", help="of each training (%(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="in which these are shown, once each (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--limit", type=int, default=6200, metavar="N", help="test images (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    run(options)
    if options.out == FILE:
        write_pages()


if __name__ == "__main__":
    main()
