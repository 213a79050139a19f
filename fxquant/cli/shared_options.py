"""Options that several subcommands share."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import fxquant
from fxquant.cli.preprocessing import add_preprocessing_options, given_sizes
from fxquant.cli.saved import is_saved
from fxquant.config.quant_config import QuantConfig
from fxquant.data.unreadable import LIMIT
from fxquant.errors import ConfigError, InputError
from fxquant.files import refuse_unwritable
from fxquant.measurement.option_values import gibibytes, percent, positive, recipe_option, seed, thread_count
from fxquant.models.timm_model import TimmModel, build_timm_model


def build_chosen_model(options: argparse.Namespace) -> TimmModel:
    """Return what the options of `add_model_options` ask for; raise as `build_timm_model` does, and for a saved model."""
    if is_saved(options.model):
        raise InputError(
            f"expected a timm model by name, got the file {options.model!r}: eval, predict, bench and report take what fxquant "
            "saved; weights go to --checkpoint"
        )
    return build_timm_model(
        options.model,
        pretrained=options.pretrained,
        checkpoint=options.checkpoint,
        num_classes=options.num_classes,
        **given_sizes(options),
        dynamic=bool(getattr(options, "dynamic", False)),
    )


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def collect_options(given: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """
    Return the options of a recipe by name.

    Raises `ConfigError` for one that is given twice, and for the bits, which have arguments of their own.
    """
    options: dict[str, Any] = {}
    for name, value in given:
        if name in options:
            raise ConfigError(f"option {name} is given twice, as {options[name]!r} and {value!r}")
        if name in ("name", "w_bits", "a_bits"):
            raise ConfigError(f"{name} is not an option of a recipe: use --recipe, --w-bits and --a-bits")
        options[name] = value
    return options


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the timm model, where its weights come from, and how its images are prepared."""
    parser.add_argument("model", metavar="MODEL", help="timm name, best with its tag: deit_small_patch16_224.fb_in1k")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--pretrained", action="store_true", help="timm's pretrained weights")
    weights.add_argument("--checkpoint", type=Path, metavar="F", help="a local file of weights (.safetensors, .pth)")
    parser.add_argument("--num-classes", type=positive, metavar="N", help="classes of the checkpoint (the model's own)")
    add_preprocessing_options(parser)


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """Add how many image files may be unreadable, which is `options.unreadable`, a part of all."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--max-unreadable",
        type=percent,
        default=LIMIT,
        dest="unreadable",
        metavar="X",
        help="percent of the images that may be unreadable: they are skipped, counted and named (1)",
    )
    group.add_argument(
        "--strict-images", action="store_const", const=0.0, dest="unreadable", help="stop at the first of them"
    )


def add_recipe_options(group: argparse._ArgumentGroup) -> None:
    """Add the recipe, its options, bits, memory and switches; `resolve_recipe` reads them."""
    group.add_argument("--recipe", default="default", help=f"one of {', '.join(fxquant.recipes())} (%(default)s)")
    add_quantisation_options(group, bits=8, fewest=2, example="published=true")
    group.add_argument(
        "--memory", type=gibibytes, metavar="GIB", help="that a search for scales may hold; the rest goes to disk (2)"
    )
    group.add_argument("--attention", action="store_true", help="quantise the products inside attention as well")


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
        group.add_argument(name, type=int, default=bits, metavar="N", help=f"{text} (%(default)s)")
    group.add_argument("--no-patch-embed", action="store_true", help="leave the patch embedding float")
    group.add_argument("--no-head", action="store_true", help="leave the classifier head float")


def resolve_recipe(options: argparse.Namespace) -> tuple[QuantConfig, dict[str, Any]]:
    """
    Return the config that the options of `add_recipe_options` ask for, and the recipe's options by name.

    A switch that was not given is left to the recipe. Raises `ConfigError` for what `fxquant.recipe` does not take.
    """
    given = {"patch_embed": not options.no_patch_embed, "head": not options.no_head, "attention": options.attention}
    switches = [(name, value) for name, value in given.items() if value == (name == "attention")]
    recipe_options = collect_options([*options.option, *switches])
    return fxquant.recipe(options.recipe, options.w_bits, options.a_bits, **recipe_options), recipe_options


def add_run_options(parser: argparse.ArgumentParser, threads: int | None = None) -> None:
    """Add what every measuring command has: seed, threads (None: as many as torch likes) and the JSON file."""
    parser.add_argument("--seed", type=seed, default=0, help="of every random choice (%(default)s)")
    usual = threads or "torch's default"
    parser.add_argument("--threads", type=thread_count, default=threads, metavar="N", help=f"CPU threads ({usual})")
    parser.add_argument("--json", type=Path, metavar="F", help="write everything measured to this file")


def start_run(options: argparse.Namespace) -> None:
    """Set threads and seed, and refuse outputs that could not be written once the work is done."""
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    saved = getattr(options, "save", None)
    if saved is not None and saved.suffix != ".safetensors":
        raise InputError(f"expected a .safetensors file to save to, got {str(saved)!r}")
    for file in filter(None, (options.json, saved)):
        refuse_unwritable(file)
