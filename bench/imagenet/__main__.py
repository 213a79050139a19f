"""
The published ImageNet tables of PTQ4ViT, NoisyQuant, FQ-ViT and PSAQ-ViT, and of methods for few bits, measured again.

``python -m bench.imagenet --data DIR`` takes an ImageNet-1k folder with ``train`` and ``val``. Each row is written to the
JSON file as soon as it is measured, and found there by the next run, so that a run can be stopped and started again. On
several GPUs: ``torchrun --nproc-per-node N -m bench.imagenet --data DIR --device cuda`` shares the rows out. Synthetic
calibration images are made once, by the process that needs them first, and kept in a folder beside the JSON file.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch

from bench.harness.results import RESULTS, results_file
from bench.imagenet.jobs import choices, choose_figures, list_jobs, model_names
from bench.imagenet.measure import Bench, measure_jobs
from bench.imagenet.page import render
from bench.imagenet.results import ImagenetResults
from fxquant.data.folder import read_image_tree
from fxquant.distributed import gather_objects, initialise, launched_as, only_first
from fxquant.errors import FxquantError, InputError
from fxquant.measurement.option_values import gibibytes, natural, positive

_TIMEOUT = timedelta(days=20)  # of a process that is done waiting for the others, which may have rows left


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables, recipes, bits = (choices(name) for name in ("table", "recipe", "bits"))
    names = ", ".join(model_names())
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
    parser.add_argument("--out", type=Path, default=results_file("imagenet"), metavar="F", help="the JSON file")
    parser.add_argument("--force", action="store_true", help="measure again what the file holds already")
    return parser


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
    number, processes = launched_as()
    failed = measure_jobs(jobs, jobs[number::processes], bench, options.force)
    with initialise("cpu", _TIMEOUT):  # only now: processes of a group would share out each calibration
        failures = gather_objects(failed)
        only_first(lambda: print(render(jobs, results.read()["rows"]), flush=True))
        gather_objects(None)  # torchrun stops all as soon as one has failed: let the tables come first
    return 1 if any(failures) else 0


if __name__ == "__main__":
    raise SystemExit(main())
