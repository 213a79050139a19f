"""
What each recipe costs in accuracy, on the stand-ins of ``bench/standins``, with and without injected outlier channels.

``python -m bench.accuracy`` calibrates each recipe at each bit width with each seed, a fresh process each, and writes
``bench/results/accuracy.json``; ``bench.accuracy.table`` makes ``docs/accuracy.md`` of it. Cells that are there already
are skipped, so an interrupted run goes on where it stopped. ``--ablations`` adds variants of the recipes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import re
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxquant
from bench.accuracy.table import ABLATION_BITS, ABLATIONS, BITS, OUTLIERS, RECIPES, Variant
from bench.harness.results import RESULTS, describe_run
from bench.standins import STANDINS, Glyphs, Outliers, inject_outliers, load_part, load_standin
from fxquant.errors import ConfigError, FxquantError, InputError
from fxquant.files import write_json
from fxquant.measurement.evaluation import Evaluation, evaluate, measure_agreement
from fxquant.numerics.arithmetic import sqnr

Row = dict[str, Any]
CALIBRATION_BATCH = 8  # moving averages need more than one batch
TEST_BATCH = 64


@dataclass(frozen=True)
class Cell:
    """One figure of the benchmark. seed: of the calibration images and of the recipe's random choices."""

    model: str
    outliers: str
    bits: str
    recipe: str
    options: Mapping[str, Any]
    seed: int

    @property
    def key(self) -> str:
        """Its name in the results; variants that are the same recipe with the same options share one."""
        options = "".join(f" {name}={value}" for name, value in sorted(self.options.items()))
        return f"{self.model} {self.outliers} {self.bits} {self.recipe}{options} seed {self.seed}"

    @property
    def digest(self) -> str:
        """A few digits that are others when the recipe's constants have changed."""
        return hashlib.sha256(repr(self.config).encode()).hexdigest()[:12]

    @property
    def config(self) -> fxquant.QuantConfig:
        """What is quantised, and how; raises `ConfigError` where the recipe, its options or the bits are unknown."""
        found = re.fullmatch(r"W(\d+)A(\d+)", self.bits)
        if found is None:
            raise ConfigError(f"expected bits such as W8A8 or W4A8, got {self.bits!r}")
        return fxquant.recipe(self.recipe, int(found[1]), int(found[2]), **self.options)


def select_cells(options: argparse.Namespace) -> list[Cell]:
    """
    Return the cells that were asked for, each once, those of the first seed first.

    Raises `ConfigError` for what is not known: a recipe, an ablation, bits.
    """
    variants = [(Variant(name, name), tuple(options.bits)) for name in options.recipes]
    groups = () if options.ablations is None else options.ablations or ABLATIONS
    unknown = set(groups) - set(ABLATIONS)
    if unknown:
        raise ConfigError(f"unknown ablation {', '.join(sorted(unknown))}: expected some of {', '.join(ABLATIONS)}")
    narrow = tuple(bits for bits in options.bits if bits in ABLATION_BITS)
    variants += [(variant, narrow) for group in groups for variant in ABLATIONS[group]]
    cells = [
        Cell(model, outliers, bits, variant.recipe, variant.options, seed)
        for seed in options.seeds
        for model in options.models
        for outliers in options.outliers
        for variant, widths in variants
        for bits in widths
    ]
    for cell in cells:
        _ = cell.config  # refuse it now, not when its turn comes
    return list({cell.key: cell for cell in cells}.values())


def build_model(name: str, outliers: str) -> nn.Module:
    """Load the stand-in `name` of seed 0; its outliers are the same every time too."""
    model = load_standin(name)
    return inject_outliers(model) if outliers == "with" else model


def write_data(folder: Path, limit: int | None) -> int:
    """Draw all calibration images and `limit` test images into `folder` and return how many the latter are."""
    calibration, test = load_part("calibration"), load_part("test", limit)
    data = {"calibration": calibration.images, "images": test.images, "labels": test.labels}
    torch.save(data, folder / "data.pt")
    return len(test)


def measure_float(folder: Path, model_name: str, outliers: str) -> Row:
    """Evaluate the float model, keep its logits in `folder` for the cells, and return its top-1 accuracy and size."""
    model, data = build_model(model_name, outliers), _load(folder / "data.pt")
    found, logits = _evaluate(model, data, f"float {model_name}")
    torch.save({"logits": logits}, folder / f"{model_name} {outliers}.pt")
    return {"top1": round(found.top1, 4), "parameters": sum(p.numel() for p in model.parameters())}


def measure(cell: Cell, folder: Path, calib: int, threads: int) -> Row:
    """
    Calibrate one cell on `calib` images, evaluate it, and return its figures; accuracies are in percent.

    seconds, cpu_seconds: of calibration alone, on the clock and on the processor. memory_mib: by how much calibration raised
    the peak resident memory of this process, which is fresh and held the prepared model and the images before it.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(cell.seed)
    data = _load(folder / "data.pt")
    expected = _load(folder / f"{cell.model} {cell.outliers}.pt")["logits"]
    prepared = fxquant.prepare(fxquant.trace(build_model(cell.model, cell.outliers)), cell.config)
    batches = draw_calibration(data["calibration"], calib, cell.seed).split(CALIBRATION_BATCH)
    before, start, cpu = _peak_mib(), time.perf_counter(), time.process_time()
    fxquant.calibrate(prepared, batches, progress=False, seed=cell.seed)
    row: Row = {"seconds": round(time.perf_counter() - start, 3), "cpu_seconds": round(time.process_time() - cpu, 3)}
    row["memory_mib"] = round(_peak_mib() - before, 1)
    fake, logits = _evaluate(fxquant.convert(prepared, "fake"), data, f"fake {cell.key}")
    row |= {"top1": round(fake.top1, 4), "sqnr_db": _decibels(expected, logits)}
    row["agreement"] = round(100 * (logits.argmax(dim=1) == expected.argmax(dim=1)).double().mean().item(), 4)
    if cell.seed == 0:
        int8, logits = _evaluate(fxquant.convert(prepared, "int8"), data, f"int8 {cell.key}")
        row |= {"int8_top1": round(int8.top1, 4), "int8_agreement": round(measure_agreement(fake, int8), 4)}
    return row


def draw_calibration(images: Tensor, count: int, seed: int) -> Tensor:
    """Draw `count` of the calibration images ``(B, 1, 32, 32)``, others for another seed."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order[:count]]


def _evaluate(model: nn.Module, data: Mapping[str, Tensor], description: str) -> tuple[Evaluation, Tensor]:
    """Return the evaluation on the test images and the logits ``(B, classes)``."""
    logits: list[Tensor] = []

    def run(images: Tensor) -> Tensor:
        logits.append(model(images))
        return logits[-1]

    found = evaluate(run, Glyphs(data["images"], data["labels"]).batches(TEST_BATCH), description=description)
    return found, torch.cat(logits)


def _load(file: Path) -> dict[str, Tensor]:
    """Map the tensors of a file: pages that are not read take no memory."""
    tensors: dict[str, Tensor] = torch.load(file, mmap=True, weights_only=True)
    return tensors


def _decibels(expected: Tensor, found: Tensor) -> float | None:
    decibels = sqnr(expected, found)
    return round(decibels, 2) if math.isfinite(decibels) else None


def _peak_mib() -> float:
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def measure_in_process(*arguments: Any) -> Row:
    """Call `measure` in a process that has imported everything and done nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fxquant", "timm"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, *arguments).result()


class Results:
    """The results file: float baselines and rows, written after each cell."""

    def __init__(self, file: Path, calib: int, threads: int) -> None:
        self.file, self.threads = file, threads
        injected = {name: getattr(Outliers(), name) for name in ("norm", "value", "hidden")}
        self.facts = {
            "calib": calib,
            "calib_batch": CALIBRATION_BATCH,
            "test_batch": TEST_BATCH,
            "injected": injected | {"factor": list(Outliers().factor)},
        }
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        self.images: int | None = known.get("images")
        self.baselines: dict[str, Row] = known.get("baselines", {})
        self.rows: dict[str, Row] = known.get("rows", {})
        for name, value in self.facts.items():
            if known and known.get(name) != value:
                raise InputError(f"{file} was measured with {name} {known.get(name)}, not {value}: name another --out")

    def finished(self, cell: Cell) -> bool:
        """Whether `cell` was measured with the config that its recipe gives now, and did not fail."""
        row = self.rows.get(cell.key, {})
        return "top1" in row and bool(row.get("config") == cell.digest)

    def expect_images(self, count: int) -> None:
        """Refuse to mix figures of different test images."""
        if self.rows and self.images != count:
            raise InputError(f"{self.file} was measured on {self.images} test images: name another --out")
        self.images = count

    def add_baseline(self, name: str, row: Row) -> None:
        """Keep the accuracy of a float model, which must not have changed under the rows that are there."""
        if self.baselines.setdefault(name, row) != row:
            raise InputError(f"{self.file} was measured on another float model {name!r}: name another --out")

    def add(self, cell: Cell, row: Row) -> None:
        """Write the file with one more row."""
        now = describe_run()
        origin = {"threads": self.threads, "date": now["date"][:10], "commit": now["commit"]}
        self.rows[cell.key] = asdict(cell) | row | {"config": cell.digest} | origin
        self.file.parent.mkdir(parents=True, exist_ok=True)
        measured = {"images": self.images, "baselines": self.baselines, "rows": self.rows}
        write_json(self.file, now | self.facts | measured)


def run(cells: Sequence[Cell], results: Results, options: argparse.Namespace) -> Iterator[tuple[Cell, Row]]:
    """Measure the cells one by one, write each down and yield it; one that fails says why in `stopped`."""
    with tempfile.TemporaryDirectory() as name:
        folder, floats = Path(name), set[str]()
        if cells:
            load_part("calibration", options.calib)  # refuses now what every cell would refuse
            results.expect_images(write_data(folder, options.limit))
        for cell in cells:
            baseline = f"{cell.model} {cell.outliers}"
            if baseline not in floats:
                results.add_baseline(baseline, measure_float(folder, cell.model, cell.outliers))
                floats.add(baseline)
            try:
                row = measure_in_process(cell, folder, options.calib, options.threads)
            except Exception as error:
                row = {"stopped": f"{type(error).__name__}: {str(error)[:500]}"}
            results.add(cell, row)
            yield cell, row


def main(arguments: list[str] | None = None) -> None:
    """Measure what the command line asks for and the results file lacks."""
    parser = _parser()
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    failed = 0
    try:
        cells = select_cells(options)
        results = Results(options.out, options.calib, options.threads)
        todo = [cell for cell in cells if options.force or not results.finished(cell)]
        print(f"{len(todo)} of {len(cells)} cells to measure", flush=True)
        for cell, row in run(todo, results, options):
            failed += "stopped" in row
            print(f"{cell.key}: {row.get('stopped') or '{top1:.2f} %, {sqnr_db} dB'.format(**row)}", flush=True)
    except FxquantError as error:
        parser.error(str(error))
    if failed:
        raise SystemExit(f"{failed} cells failed; they are tried again next time")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(STANDINS), choices=list(STANDINS))
    parser.add_argument("--outliers", nargs="+", default=list(OUTLIERS), choices=OUTLIERS, help="injected or not")
    parser.add_argument("--bits", nargs="+", default=list(BITS), metavar="WxAy", help=f"by default {' '.join(BITS)}")
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES), metavar="NAME", help="none: ablations alone")
    parser.add_argument(
        "--ablations",
        nargs="*",
        metavar="GROUP",
        help=f"of {', '.join(ABLATIONS)}, without a name all of them; at {' and '.join(ABLATION_BITS)}",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of calibration; 0 runs int8 as well")
    parser.add_argument("--calib", type=int, default=32, metavar="N", help="calibration images (%(default)s)")
    parser.add_argument("--limit", type=int, metavar="N", help="test on the first N images only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "accuracy.json")
    parser.add_argument("--force", action="store_true", help="measure again what the results hold already")
    return parser


if __name__ == "__main__":
    main()
