"""
The published ImageNet tables of PTQ4ViT and NoisyQuant, measured again.

``python bench/imagenet.py --data DIR`` takes an ImageNet-1k folder with ``train`` and ``val``. Each row is written to the
JSON file as soon as it is measured, and found there by the next run, so that a run can be stopped and started again. On
several GPUs: ``torchrun --nproc-per-node N bench/imagenet.py --data DIR --device cuda`` shares the rows out.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TextIO

import torch
from harness import RESULTS, describe_run
from imagenet_results import Job, Results, Row, describe_gap, is_done, render
from imagenet_tables import FIGURES, Figure
from torch.distributed.rendezvous import rendezvous

import fxquant
from fxquant.cli.arguments import gibibytes, natural, positive, resolve_device
from fxquant.cli.measure import Task, calibrate_model, measure_float
from fxquant.cli.models import TimmModel, build_timm_model
from fxquant.data import ImageBatches, ImageTree, check_classes, draw_images, read_image_tree, resolve_data_config
from fxquant.errors import FxquantError, InputError
from fxquant.evaluation import evaluate


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables, recipes = (sorted({getattr(figure, name) for figure in FIGURES}) for name in ("table", "recipe"))
    names = ", ".join(dict.fromkeys(figure.model.name for figure in FIGURES))
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="holds train and val, of class folders")
    parser.add_argument("--tables", nargs="+", choices=tables, default=tables)
    parser.add_argument("--models", nargs="+", metavar="MODEL", help=f"timm tags or names: {names} (all)")
    parser.add_argument("--bits", nargs="+", choices=("W8A8", "W6A6"), default=["W8A8", "W6A6"])
    parser.add_argument("--recipes", nargs="+", choices=recipes, default=recipes)
    constants = ("published", "fxquant")
    parser.add_argument("--constants", nargs="+", choices=constants, default=constants, help="of the recipes (both)")
    parser.add_argument(
        "--checkpoints", type=Path, metavar="DIR", help="<tag>.safetensors or .pth files, not downloads"
    )
    parser.add_argument("--calib", type=positive, metavar="N", help="calibration images (as published)")
    parser.add_argument("--limit", type=positive, metavar="N", help="evaluate on N images, drawn at random (all)")
    parser.add_argument("--target", choices=("int8", "fake"), default="int8", help="integer products or simulation")
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda (%(default)s)")
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="images per batch (%(default)s)")
    parser.add_argument("--workers", type=natural, default=min(4, os.cpu_count() or 1), metavar="N")
    parser.add_argument("--memory", type=gibibytes, metavar="GIB", help="that a search for scales may hold (2)")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (torch's default)")
    parser.add_argument("--seed", type=natural, default=0, help="of every random choice (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "imagenet.json", metavar="F", help="the JSON file")
    parser.add_argument("--force", action="store_true", help="measure again what the file holds already")
    return parser


class Bench:
    """Measure jobs one after the other, keeping the model and the float result that the next one may need."""

    def __init__(self, options: argparse.Namespace, tree: ImageTree, results: Results) -> None:
        self.options = options
        self.tree = tree
        self.results = results
        self.device = _device(options.device)
        self._source: tuple[str, TimmModel] | None = None
        self._floats: set[str] = set()  # used by this process before

    def run(self, job: Job) -> Row:
        """Measure one job and return its row; an error becomes a row too."""
        start = time.perf_counter()
        head: Row = {
            "table": job.figure.table,
            "method": job.figure.method,
            "model": job.figure.model.tag,
            "bits": job.figure.bits,
            "recipe": job.figure.recipe,
            "constants": job.constants,
            "options": job.options,
            "calibration_images": job.calibration,
            "limit": job.limit,
            "seed": job.seed,
            "target": job.target,
            "published": {"float": job.figure.float_top1, "top1": job.figure.top1, "source": job.figure.source},
        }
        try:
            measured = self._measure(job)
        except Exception as error:  # whatever it is, the other rows can still be had
            measured = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:1000]}"}
        finally:
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return head | measured | {"seconds": round(time.perf_counter() - start, 1), **describe_run()}

    def _measure(self, job: Job) -> Row:
        options, figure = self.options, job.figure
        config = fxquant.recipe(figure.recipe, figure.bits, figure.bits, **job.options)
        source = self._load(figure.model.tag)
        check_classes(self.tree, source.num_classes)
        loading = (resolve_data_config(source.model), options.batch_size, options.workers)
        drawn = draw_images(self.tree, job.calibration, job.limit, job.seed)
        calibration, evaluation = (ImageBatches(samples, *loading) for samples in drawn)
        task = Task(source.model, calibration, evaluation, self.device, torch.float32, job.seed)
        reference = self._measure_float(job, task)
        prepared, seconds = calibrate_model(task, config, options.memory)
        gm = fxquant.convert(prepared, job.target)  # type: ignore[arg-type]
        result = evaluate(gm, evaluation, device=self.device, description=figure.method)
        return {
            "float": reference,
            "top1_percent": result.top1,
            "top5_percent": result.top5,
            "images": result.count,
            "int8_coverage": fxquant.report(gm).coverage if job.target == "int8" else None,
            "calibration_seconds": round(seconds, 1),
            "weights": source.weights,
        }

    def _load(self, tag: str) -> TimmModel:
        if self._source is None or self._source[0] != tag:
            self._source = None  # two large models need not be there at once
            file = find_checkpoint(self.options.checkpoints, tag) if self.options.checkpoints else None
            source = build_timm_model(tag, pretrained=file is None, checkpoint=file)
            source.model.to(self.device)
            self._source = (tag, source)
        return self._source[1]

    def _measure_float(self, job: Job, task: Task) -> Row:
        """Return the float model's result, which all rows of a model share."""
        key = job.float_key
        known = self.results.read()["floats"].get(key)
        if known is None or (self.options.force and key not in self._floats):
            known = measure_float(task, f"{job.figure.model.name} float").as_json() | describe_run()
            self.results.put("floats", key, known)
        gap = describe_gap(job.figure, known["top1_percent"])
        if gap and key not in self._floats:
            _say(f"warning: {gap}", sys.stderr)
        self._floats.add(key)
        return {name: known[name] for name in ("top1_percent", "top5_percent", "images")}


def find_checkpoint(folder: Path, tag: str) -> Path:
    """Return the file of weights for `tag` in `folder`; raise `InputError` where there is none."""
    files = [folder / f"{tag}{suffix}" for suffix in (".safetensors", ".pth")]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise InputError(f"no weights for {tag}: {str(folder)!r} holds neither {files[0].name} nor {files[1].name}")
    return found


def choose_figures(options: argparse.Namespace) -> list[Figure]:
    """Return the published figures that were asked for; raise `InputError` for an unknown model, and where there is none."""
    known = {name for figure in FIGURES for name in (figure.model.name, figure.model.tag)}
    unknown = sorted(set(options.models or ()) - known)
    if unknown:
        raise InputError(f"no published figure for {', '.join(unknown)}: expected {', '.join(sorted(known))}")
    chosen = [
        figure
        for figure in FIGURES
        if figure.table in options.tables
        and figure.recipe in options.recipes
        and f"W{figure.bits}A{figure.bits}" in options.bits
        and (not options.models or {figure.model.name, figure.model.tag} & set(options.models))
    ]
    if not chosen:
        raise InputError("no published figure has all of these --tables, --models, --bits and --recipes")
    # Rows of one model are neighbours: it is loaded once, and its float accuracy measured once.
    order = list(dict.fromkeys(figure.model for figure in FIGURES))
    return sorted(chosen, key=lambda figure: order.index(figure.model))


def list_jobs(options: argparse.Namespace, tree: ImageTree) -> list[Job]:
    """Return the rows to measure, by model."""
    images, shared = (len(tree.calibration), len(tree.evaluation)), tree.shared
    return [
        Job(
            figure,
            name,
            options.calib or figure.calibration,
            options.limit,
            options.seed,
            options.target,
            images,
            shared,
        )
        for figure in choose_figures(options)
        for name in dict.fromkeys(options.constants)
        if name == "published" or figure.published or "published" not in options.constants  # else both are the same
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line and return the exit code.

    0: every row of this process is there. 1: one failed, the others are there. 2: nothing could be done. 130: interrupted.
    """
    options = build_parser().parse_args(argv)
    try:
        return _run(options)
    except FxquantError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: run it again to go on", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.checkpoints and not options.checkpoints.is_dir():
        raise InputError(f"folder of checkpoints {str(options.checkpoints)!r} does not exist")
    choose_figures(options)
    if options.out.parent == RESULTS:
        RESULTS.mkdir(exist_ok=True)
    if options.out.is_dir() or not options.out.absolute().parent.is_dir():
        raise InputError(f"cannot write {str(options.out)!r}: its folder does not exist, or it is a folder itself")
    results = Results(options.out)
    results.read()
    tree = read_image_tree(options.data)
    jobs, bench = list_jobs(options, tree), Bench(options, tree, results)
    failed = _work(jobs, jobs[rank::world], bench, options.force)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        failed = _meet(rank, world, failed, lambda: print(render(jobs, results.read()["rows"])))
    else:
        print(render(jobs, results.read()["rows"]))
    return 1 if failed else 0


def _work(jobs: Sequence[Job], own: Sequence[Job], bench: Bench, force: bool) -> int:
    """Measure what the file lacks of the jobs `own` and return how many failed."""
    failed = 0
    for job in own:
        place = f"[{jobs.index(job) + 1}/{len(jobs)}] {job.key}"
        known = is_done(bench.results.read()["rows"].get(job.key))
        if known and not force:
            _say(f"{place}: there already")
            continue
        _say(place)
        row = bench.run(job)
        if is_done(row) or not known:  # a failure does not replace a result
            bench.results.put("rows", job.key, row)
        failed += not is_done(row)
        found = row.get("error") or f"top-1 {row['top1_percent']:.2f} %, float {row['float']['top1_percent']:.2f} %"
        _say(f"{place}: {found} ({row['seconds']:.0f} s)")
    return failed


def _meet(rank: int, world: int, failed: int, finish: Callable[[], None]) -> int:
    """
    Wait for the other processes of torchrun, let the first one `finish`, and return how many rows failed in all.

    torchrun stops every process as soon as one of them exits with an error, so that none may before the last is done.
    """
    store, *_ = next(rendezvous("env://", timeout=timedelta(minutes=5)))
    store.add("imagenet/failed", failed)
    store.add("imagenet/done", 1)
    while store.add("imagenet/done", 0) < world:
        time.sleep(1)
    if rank == 0:
        finish()
        store.add("imagenet/finished", 1)
    while not store.add("imagenet/finished", 0):
        time.sleep(1)
    return int(store.add("imagenet/failed", 0))


def _say(line: str, stream: TextIO | None = None) -> None:
    """Print one line at once, so that it is not torn apart by those of other processes."""
    print(f"{line}\n", end="", file=stream, flush=True)


def _device(name: str) -> torch.device:
    """Return the device; under torchrun, ``cuda`` is the process's own GPU."""
    local = os.environ.get("LOCAL_RANK")
    device = resolve_device(f"cuda:{local}" if name == "cuda" and local is not None else name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


if __name__ == "__main__":
    raise SystemExit(main())
