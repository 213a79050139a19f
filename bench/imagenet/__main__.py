"""
The published ImageNet tables of PTQ4ViT, NoisyQuant, FQ-ViT and PSAQ-ViT, measured again.

``python -m bench.imagenet --data DIR`` takes an ImageNet-1k folder with ``train`` and ``val``. Each row is written to the
JSON file as soon as it is measured, and found there by the next run, so that a run can be stopped and started again. On
several GPUs: ``torchrun --nproc-per-node N -m bench.imagenet --data DIR --device cuda`` shares the rows out. Synthetic
calibration images are made once, by the process that needs them first, and kept in a folder beside the JSON file.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import torch
from torch.distributed.rendezvous import rendezvous

from bench.harness.results import RESULTS
from bench.imagenet.measure import Bench, say
from bench.imagenet.results import ImagenetResults, Job, is_done, render
from bench.imagenet.tables import FIGURES, Figure
from fxquant.data.folder import ImageTree, read_image_tree
from fxquant.errors import FxquantError, InputError
from fxquant.measurement.option_values import gibibytes, natural, positive


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables, recipes, bits = (sorted({getattr(f, name) for f in FIGURES}) for name in ("table", "recipe", "bits"))
    names = ", ".join(dict.fromkeys(figure.model.name for figure in FIGURES))
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="holds train and val, of class folders")
    parser.add_argument("--tables", nargs="+", choices=tables, default=tables)
    parser.add_argument("--models", nargs="+", metavar="MODEL", help=f"timm tags or names: {names} (all)")
    parser.add_argument("--bits", nargs="+", choices=bits, default=bits)
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
        and figure.bits in options.bits
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
        if name == "published" or figure.departs or "published" not in options.constants  # else both are the same
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
    results = ImagenetResults(options.out)
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
            say(f"{place}: there already")
            continue
        say(place)
        row = bench.run(job)
        if is_done(row) or not known:  # a failure does not replace a result
            bench.results.put("rows", job.key, row)
        failed += not is_done(row)
        found = row.get("error") or f"top-1 {row['top1_percent']:.2f} %, float {row['float']['top1_percent']:.2f} %"
        say(f"{place}: {found} ({row['seconds']:.0f} s)")
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


if __name__ == "__main__":
    raise SystemExit(main())
