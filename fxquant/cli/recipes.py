"""``fxquant recipes``: the names that ``--recipe`` takes, and what ``--option`` takes with each."""

from __future__ import annotations

import argparse
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import fields
from enum import Enum
from functools import partial
from typing import Any

import fxquant
from fxquant.cli.options.recipe_descriptions import DESCRIPTIONS
from fxquant.config.quant_config import QuantConfig
from fxquant.config.recipes.book import CODES, RECIPES
from fxquant.config.recipes.placed import OBSERVERS, SoftmaxCodes
from fxquant.config.search import Gradient, Inputs, Metric, Noise, ScaleSearch
from fxquant.config.weight_fit import Correction, WeightFit
from fxquant.errors import ConfigError
from fxquant.files import json_report
from fxquant.measurement.option_values import format_value
from fxquant.observers import GradientScale

_IN_CONFIG = ("patch_embed", "head", "decoder", "attention", "strict_inputs", "float_dtype")
_OTHERS = {"folds": None, "codes": CODES[0]}
SWITCHES = (*_IN_CONFIG, *_OTHERS)  # of all recipes
_CHOICES = {
    "codes": CODES,
    "metric": tuple(member.value for member in Metric),
    "gradient": tuple(member.value for member in Gradient),
    "inputs_from": tuple(member.value for member in Inputs),
    "correction": tuple(member.value for member in Correction),
    "noise": tuple(member.value for member in Noise),
    "observer": tuple(OBSERVERS),
    "softmax": tuple(member.value for member in SoftmaxCodes),
    "gradient_scale": tuple(member.value for member in GradientScale),
}


def run(options: argparse.Namespace) -> None:
    """Print each recipe with a line about it and its options."""
    with json_report(options.json) as report:
        _print_recipes()
        report["recipes"] = [
            {"name": name, "description": DESCRIPTIONS[name], "options": recipe_defaults(name)}
            for name in fxquant.recipes()
        ]
        report["values"] = _CHOICES


def _print_recipes() -> None:
    width = max(map(len, fxquant.recipes())) + 2
    for name in fxquant.recipes():
        print(name.ljust(width) + DESCRIPTIONS[name])
        shown = " ".join(f"{option}={format_value(value)}" for option, value in recipe_defaults(name).items())
        print(textwrap.indent(textwrap.fill(shown, 118 - width, break_on_hyphens=False), " " * width))
    print("\nGive one as --option NAME=VALUE. Where the value is a name, it is one of")
    for option, values in _CHOICES.items():
        print(option.ljust(width) + ", ".join(values))


def recipe_defaults(name: str) -> dict[str, Any]:
    """
    Return the options of the recipe `name` and their defaults, enumerations by value; those of all recipes come last.

    folds is None, which leaves a recipe those of its own.
    """
    plain = fxquant.recipe(name)
    defaults = {}
    for option, declared in _declared(RECIPES[name], plain):
        if option not in SWITCHES:
            found = [value for value in _candidates(option, declared) if _means(name, option, value, plain)]
            if found:
                defaults[option] = found[0]
    return defaults | {switch: getattr(plain, switch) for switch in _IN_CONFIG} | _OTHERS


def _declared(function: Callable[..., QuantConfig], plain: QuantConfig) -> Iterator[tuple[str, Any]]:
    """Yield what may be an option of `function`, and its default where the signature or the config tells."""
    if isinstance(function, partial):  # of an observer, whose fields are the options
        yield from ((field.name, field.default) for field in fields(function.args[0]))
        return
    seen: dict[str, Any] = {}
    if _takes_more(function):  # such options are handed on, to another recipe and to the search
        others = (other for other in RECIPES.values() if not isinstance(other, partial))
        for other in (function, *others):
            seen = _keywords(other) | seen
        search = plain.layer and plain.layer.search
        if search:
            seen |= {field.name: getattr(search, field.name) for field in fields(ScaleSearch)}
        fit = plain.layer and plain.layer.fit
        if fit:
            seen = {field.name: getattr(fit, field.name) for field in fields(WeightFit)} | seen
    yield from (_keywords(function) | seen).items()


def _keywords(function: Callable[..., QuantConfig]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _takes_more(function: Callable[..., QuantConfig]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())


def _candidates(option: str, declared: Any) -> Iterator[Any]:
    """Yield the values that may be the default of `option`; a signature's None can stand for any of them."""
    if isinstance(declared, Enum):
        yield declared.value
    elif declared is not None:
        yield declared
    if declared is None or isinstance(declared, bool):
        yield from (True, False)
    yield from _CHOICES.get(option, ())
    yield None


def _means(name: str, option: str, value: Any, plain: QuantConfig) -> bool:
    """Say whether the recipe takes the option, and is with this value what it is without."""
    try:
        return fxquant.recipe(name, **{option: value}) == plain
    except ConfigError:
        return False
