"""Named configs: the methods people compare, with their published constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fxquant.config import LayerSpec, QuantConfig, TensorSpec
from fxquant.errors import ConfigError
from fxquant.granularity import PerChannel
from fxquant.observers import EMA, OMSE, MinMax, ObserverOptions, Percentile

_SWITCHES = ("patch_embed", "head", "attention")


def recipe(name: str, w_bits: int = 8, a_bits: int = 8, **options: Any) -> QuantConfig:
    """
    Return the config of the recipe `name` (see `recipes`) at `w_bits` weight and `a_bits` activation bits.

    Options: ``patch_embed``, ``head`` and ``attention`` (bool) switch those products; anything else goes to the recipe's
    observer, such as ``alpha`` of percentile. Raises `ConfigError` for an unknown recipe or option.

    minmax, ema, percentile and omse are the observers of FQ-ViT for activations (affine, unsigned, per tensor); weights are
    symmetric per output channel, by their minimum and maximum.
    """
    if name not in _RECIPES:
        raise ConfigError(f"unknown recipe {name!r}: expected one of {', '.join(recipes())}")
    switches = {key: options.pop(key) for key in _SWITCHES if key in options}
    for key, value in switches.items():
        if not isinstance(value, bool):
            raise ConfigError(f"option {key} must be True or False, got {value!r}")
    try:
        observer = _RECIPES[name](**options)
    except TypeError as error:
        raise ConfigError(f"recipe {name!r} does not take these options: {error}") from error
    weight = TensorSpec(w_bits, signed=True, symmetric=True, granularity=PerChannel(0), observer=MinMax())
    return QuantConfig(LayerSpec(weight, TensorSpec(a_bits, observer=observer)), **switches)


def recipes() -> tuple[str, ...]:
    """Return the names of all recipes."""
    return tuple(_RECIPES)


_RECIPES: dict[str, Callable[..., ObserverOptions]] = {
    "default": OMSE,
    "minmax": MinMax,
    "ema": EMA,
    "percentile": Percentile,
    "omse": OMSE,
}
