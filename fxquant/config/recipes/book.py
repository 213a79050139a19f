"""The recipes by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from fxquant.config.folds import folds_of
from fxquant.config.quant_config import FLOAT_DTYPES, QuantConfig
from fxquant.config.recipes.default import default
from fxquant.config.recipes.e4m3 import as_float8
from fxquant.config.recipes.fitted import erq, gptq
from fxquant.config.recipes.folded import glfq, repq, rotate
from fxquant.config.recipes.learned import vvtq
from fxquant.config.recipes.placed import fqvit, itpn, psaq
from fxquant.config.recipes.searched import (
    adalog,
    base_ptq,
    dynamic,
    noisyquant,
    noisyquant_ptq4vit,
    ptq4vit,
    statistics,
    vanilla,
)
from fxquant.errors import ConfigError
from fxquant.observers import EMA, OMSE, MinMax, Percentile

FLOAT_BITS = 16  # of activations that are not quantised, as in W8A16
CODES = ("int", "e4m3")
_SWITCHES = ("patch_embed", "head", "decoder", "attention", "strict_inputs")


def recipe(name: str, w_bits: int = 8, a_bits: int = 8, **options: Any) -> QuantConfig:
    """
    Return the config of the recipe `name` (see `recipes`) at `w_bits` weight and `a_bits` activation bits.

    a_bits=16 leaves all activations float: weights alone are codes, and products are float (W8A16).

    ``patch_embed``, ``head``, ``decoder`` (of the queries of a detector) and ``attention`` (bool) switch those products in
    every recipe, and ``float_dtype`` (a dtype, or its name such as "bfloat16") is what everything else is computed in.
    ``strict_inputs`` (bool) says whether wrong values in images are refused. ``folds`` (`Folds`, or names as in
    ``"rotate+reparameterize"``) is what is folded into the weights first: see `fxquant.config.folds`. ``codes="e4m3"`` has
    float8 codes of 8 bits in place of integers, see `fxquant.config.recipes.e4m3`; ``"int"`` is the default. Raises
    `ConfigError` for an unknown recipe or option.

    minmax, ema, percentile and omse are the observers of FQ-ViT for activations (affine, unsigned, per tensor); weights are
    symmetric per output channel, by their minimum and maximum. Other options go to the observer, such as ``alpha`` of
    percentile.

    dynamic gives the input of each linear layer a scale per token, computed at run time from its smallest and largest value;
    ``symmetric=True``: without zero points. The image keeps one scale, at 8 bits.

    base_ptq and ptq4vit search the scales of weights, inputs and both operands of the attention products (PTQ4ViT); ptq4vit
    also has twin-uniform quantisers after softmax and GELU. Options: ``metric`` and ``gradient`` (`Metric`, `Gradient` or
    their values), ``per_channel`` (weight scales; else one per projection, as a cosine needs it), ``twin_softmax``,
    ``twin_gelu``, ``power_of_two`` (of GELU's scales), and all fields of `ScaleSearch`, such as ``inputs_from``, ``rounds``,
    ``coarse``, ``max_rows`` and ``correct_bias``; ``published=True`` makes all of them what the published code does.

    adalog searches a base for the powers that softmax and GELU outputs are rounded to (AdaLog). All else is affine, weights per
    output channel, queries, keys and values per head, and norms are reparameterised. Options: ``softmax``, ``gelu`` (bool,
    whether these are powers), ``published`` (bool, the powers are those of the published tables, which are simulated) and all
    fields of `ScaleSearch`.

    vanilla takes the largest value of weights and inputs for their scale; noisyquant searches a clipping scale and a noisy
    bias for the input of each linear layer (NoisyQuant). Attention products stay float. Options: ``noise`` (`Noise` or its
    value), ``clip``, ``mean``, ``range``, ``weights`` (search their scales too), and as above ``metric``, ``correct_bias``,
    ``inputs_from``, ``coarse``, ``max_rows`` and ``published``. noisyquant_ptq4vit is ptq4vit with noisy biases and takes
    the options of both.

    gptq and erq fit weights in closed form to what products read; activations are those of minmax. Options: ``ridge``,
    ``published``, and all fields of `WeightFit` but rounding: see `fxquant.config.recipes.fitted`.

    default gives inputs a scale per token, reparameterises norms and fits weights; ``effort`` says for how long: see
    `fxquant.config.recipes.default`. repq, rotate and glfq fold first: see `fxquant.config.recipes.folded`.

    fqvit, itpn and psaq round values between the products too, as those systems place their quantisers: see
    `fxquant.config.recipes.placed` for their options, such as ``observer``, ``power_of_two`` and ``softmax``.
    """
    if not isinstance(name, str) or name not in RECIPES:
        close = difflib.get_close_matches(str(name), recipes(), n=1)
        meant = f", did you mean {close[0]!r}" if close else ""
        raise ConfigError(f"unknown recipe {name!r}{meant}: expected one of {', '.join(recipes())}")
    switches = {key: options.pop(key) for key in _SWITCHES if key in options}
    for key, value in switches.items():
        if not isinstance(value, bool):
            raise ConfigError(f"option {key} must be True or False, got {value!r}")
    float_dtype = _float_dtype(options.pop("float_dtype", None))
    folds = folds_of(options.pop("folds", None))
    codes = options.pop("codes", CODES[0])
    if codes not in CODES:
        raise ConfigError(f"option codes must be one of {', '.join(map(repr, CODES))}, got {codes!r}")
    try:
        config = RECIPES[name](w_bits, 8 if a_bits == FLOAT_BITS else a_bits, **options)
    except TypeError as error:
        raise ConfigError(
            f"recipe {name!r} does not take these options: {_refused(error)}; see fxquant recipes"
        ) from error
    if a_bits == FLOAT_BITS:
        config = config.weight_only()
    config = as_float8(config) if codes == "e4m3" else config
    config = replace(config, **switches, float_dtype=float_dtype, folds=config.folds if folds is None else folds)
    if config.opens_attention and switches.get("attention") is False:
        raise ConfigError(
            f"recipe {name!r} rounds values inside attention: another Placement leaves them float, attention=False does not"
        )
    return config


def _refused(error: TypeError) -> str:
    """Return what of a call Python refuses, without the name of the function."""
    return str(error).partition("() ")[2] or str(error)


def _float_dtype(value: Any) -> torch.dtype | None:
    known = {str(dtype).removeprefix("torch."): dtype for dtype in FLOAT_DTYPES}
    if value is None or value in known.values():
        return value  # type: ignore[no-any-return]
    if value not in known:
        raise ConfigError(f"option float_dtype must be one of {', '.join(known)}, got {value!r}")
    return known[value]


def recipes() -> tuple[str, ...]:
    """Return the names of all recipes."""
    return tuple(RECIPES)


RECIPES: dict[str, Callable[..., QuantConfig]] = {
    "default": default,
    "minmax": partial(statistics, MinMax),
    "ema": partial(statistics, EMA),
    "percentile": partial(statistics, Percentile),
    "omse": partial(statistics, OMSE),
    "dynamic": dynamic,
    "base_ptq": base_ptq,
    "adalog": adalog,
    "ptq4vit": ptq4vit,
    "vanilla": vanilla,
    "noisyquant": noisyquant,
    "noisyquant_ptq4vit": noisyquant_ptq4vit,
    "gptq": gptq,
    "erq": erq,
    "fqvit": fqvit,
    "itpn": itpn,
    "psaq": psaq,
    "repq": repq,
    "rotate": rotate,
    "glfq": glfq,
    "vvtq": vvtq,
}
