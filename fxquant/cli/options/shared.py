"""Options that several commands share. Nothing here imports torch: help does not wait for it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from fxquant.cli.options.preprocessing import add_preprocessing_options
from fxquant.cli.options.recipe_descriptions import DESCRIPTIONS
from fxquant.data.unreadable import LIMIT
from fxquant.measurement.option_values import gibibytes, natural, percent, positive, recipe_option, seed, thread_count

DTYPES = ("float32", "bfloat16", "float16")
CODES = ("int", "e4m3")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the timm model, where its weights come from, and how its images are prepared."""
    parser.add_argument("model", metavar="MODEL", help="timm name, best with its tag: deit_small_patch16_224.fb_in1k")
    group = parser.add_argument_group("model")
    weights = group.add_mutually_exclusive_group()
    weights.add_argument("--pretrained", action="store_true", help="timm's pretrained weights")
    weights.add_argument("--checkpoint", type=Path, metavar="FILE", help="local weights (.safetensors, .pth)")
    group.add_argument(
        "--num-classes", type=positive, metavar="N", help="classes of the checkpoint (default: the model's own)"
    )
    add_preprocessing_options(parser)


def add_folder_options(group: argparse._ArgumentGroup, required: bool = True, needed: str = "") -> None:
    """
    Add the image folder, its class names, and how many of its files may be unreadable, which is `options.unreadable`.

    needed: what is said of a folder that is not `required`.
    """
    group.add_argument("--data", type=Path, required=required, metavar="DIR", help=f"the image folder{needed}")
    group.add_argument(
        "--class-map", type=Path, metavar="FILE", help="class folder names by index, one per line (.txt)"
    )
    limit = group.add_mutually_exclusive_group()
    limit.add_argument(
        "--max-unreadable",
        type=percent,
        default=LIMIT,
        dest="unreadable",
        metavar="X",
        help=f"percent of the images that may be unreadable: they are skipped, counted and named (default: {100 * LIMIT:g})",
    )
    limit.add_argument(
        "--strict-images", action="store_const", const=0.0, dest="unreadable", help="stop at the first of them"
    )


def add_recipe_options(group: argparse._ArgumentGroup) -> None:
    """Add the recipe, its options, bits, memory and switches; `resolve_recipe` reads them."""
    add_recipe(group)
    add_quantisation_options(group, bits=8, fewest=2, example="published=true")
    group.add_argument(
        "--memory",
        type=gibibytes,
        metavar="X",
        help="memory in GiB that a search for scales may take; the rest goes to disk (default: 2)",
    )
    group.add_argument("--attention", action="store_true", help="quantise the products inside attention as well")
    group.add_argument(
        "--auto",
        metavar="NAME=VALUE",
        help="choose bits and activations layer by layer: error=0.1,int8=0.9, mean_bits=5, size=6MB, latency=20ms or drop=1 "
        "(top-1 points), or several of them",
    )


def add_codes(group: argparse._ArgumentGroup) -> None:
    """Add what codes are, beside `add_recipe_options`."""
    group.add_argument(
        "--codes",
        choices=CODES,
        default=CODES[0],
        help="integers, or e4m3: float8 codes of 8 bits, for GPUs that multiply them",
    )


def add_recipe(group: argparse._ArgumentGroup) -> None:
    """Add the recipe alone."""
    names = ", ".join(DESCRIPTIONS)
    group.add_argument("--recipe", default="default", metavar="NAME", help=f"one of {names}; see fxquant recipes")


def add_quantisation_options(group: argparse._ArgumentGroup, bits: int, fewest: int, example: str) -> None:
    """Add the options of any recipe; bits: what is usual. fewest: of weights. example: of an option."""
    group.add_argument(
        "--option",
        type=recipe_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"an option of the recipe, such as {example}; repeatable, see fxquant recipes",
    )
    kinds = (("--w-bits", f"bits of weights, {fewest} to 8"), ("--a-bits", "bits of activations, 2 to 8, or 16: float"))
    for name, text in kinds:
        group.add_argument(name, type=int, default=bits, metavar="N", help=text)
    group.add_argument("--no-patch-embed", action="store_true", help="leave the patch embedding float")
    group.add_argument("--no-head", action="store_true", help="leave the classifier head float")


def add_batch_size(group: argparse._ArgumentGroup, what: str = "images") -> None:
    """Add how many images, or `what` else, go through a model together."""
    group.add_argument("--batch-size", type=positive, default=64, metavar="N", help=f"{what} per batch")


def add_device(group: argparse._ArgumentGroup, shared: bool = False) -> None:
    """Add what the model runs on; shared: by processes of torchrun."""
    each = ", under torchrun a GPU for each process" if shared else ""
    group.add_argument("--device", default="cpu", metavar="NAME", help=f"such as cpu or cuda{each}")


def add_dtype(group: argparse._ArgumentGroup, what: str, choices: tuple[str, ...] = DTYPES) -> None:
    """Add the dtype of `what`."""
    group.add_argument("--dtype", choices=choices, default="float32", help=f"dtype of {what}")


def add_workers(group: argparse._ArgumentGroup) -> None:
    """Add how many processes load images."""
    workers = min(4, os.cpu_count() or 1)
    group.add_argument("--workers", type=natural, default=workers, metavar="N", help="loading processes")


def add_seed(group: argparse._ArgumentGroup, threads: int | None = None) -> None:
    """Add what every command that computes has: the seed, and threads (None: as many as torch likes)."""
    group.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of every random choice")
    usual = "" if threads else " (default: torch's own)"
    group.add_argument("--threads", type=thread_count, default=threads, metavar="N", help=f"CPU threads{usual}")


def add_json(group: argparse._ArgumentGroup, usual: str | None = None) -> None:
    """Add the file for the figures; usual: the file where none is given."""
    group.add_argument(
        "--json",
        type=Path,
        default=None if usual is None else Path(usual),
        metavar="FILE",
        help="write the figures to this file as JSON; - is the standard output, and text goes to the standard error then",
    )
