"""What the options that several commands share ask for."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

import torch

import fxquant
from fxquant.cli.preprocessing import given_sizes
from fxquant.cli.saved import is_saved
from fxquant.config.quant_config import QuantConfig
from fxquant.errors import ConfigError, InputError
from fxquant.files import STANDARD_OUTPUT, refuse_unwritable
from fxquant.models.timm_model import TimmModel, build_timm_model


def chosen_dtype(options: argparse.Namespace) -> torch.dtype:
    """Return the dtype of ``--dtype``."""
    dtype: torch.dtype = getattr(torch, options.dtype)
    return dtype


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


def resolve_recipe(options: argparse.Namespace) -> tuple[QuantConfig, dict[str, Any]]:
    """
    Return the config that the options of `add_recipe_options` ask for, and the recipe's options by name.

    A switch that was not given is left to the recipe. Raises `ConfigError` for what `fxquant.recipe` does not take.
    """
    given = {"patch_embed": not options.no_patch_embed, "head": not options.no_head, "attention": options.attention}
    switches = [(name, value) for name, value in given.items() if value == (name == "attention")]
    switches += [("codes", options.codes)] if options.codes != "int" else []
    recipe_options = collect_options([*options.option, *switches])
    return fxquant.recipe(options.recipe, options.w_bits, options.a_bits, **recipe_options), recipe_options


def describe_codes(options: argparse.Namespace) -> str:
    """Return the bits and the codes that the options ask for, as ``W8A8 int8``."""
    kind = options.target if options.codes == "int" else options.codes
    return f"W{options.w_bits}A{options.a_bits} {kind}{' fake' if (kind, options.target) == ('e4m3', 'fake') else ''}"


def start_run(options: argparse.Namespace) -> None:
    """Set threads and seed, and refuse outputs that could not be written once the work is done."""
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    saved = getattr(options, "save", None)
    if saved is not None and saved.suffix != ".safetensors":
        raise InputError(f"expected a .safetensors file to save to, got {str(saved)!r}")
    for file in (options.json, saved):
        if file not in (None, STANDARD_OUTPUT):
            refuse_unwritable(file)


def arguments_as_json(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a command by name, as JSON can hold them."""
    plain = (str, int, float, bool, list, tuple, type(None))
    given = {name: value for name, value in vars(options).items() if name != "command"}
    return {name: value if isinstance(value, plain) else str(value) for name, value in given.items()}
