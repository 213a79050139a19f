"""Recipes that fit weights in closed form: GPTQ, GPTAQ and ERQ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fxquant.config.folds import Folds, Reparameterize
from fxquant.config.layer_spec import LayerSpec
from fxquant.config.operands import TensorSpec
from fxquant.config.quant_config import QuantConfig
from fxquant.config.recipes.member import member
from fxquant.config.search import Inputs
from fxquant.config.weight_fit import Correction, Rounding, WeightFit
from fxquant.errors import ConfigError
from fxquant.numerics.granularity import PerChannel

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
HELD_OUT = "held_out"


def gptq(
    w_bits: int,
    a_bits: int,
    *,
    published: bool = False,
    ridge: float | str | tuple[float, ...] | None = None,
    **options: Any,
) -> QuantConfig:
    """
    Return a config whose weights are rounded column by column (GPTQ), with asymmetry towards the float model (GPTAQ).

    published: the constants of GPTAQ's script for vision transformers; its weights also have zero points, these do not. ridge:
    as in `erq`. Other options are fields of `WeightFit`.
    """
    constants: dict[str, Any] = {"clip": True}
    if published:
        constants |= {"asymmetry": 0.25, "damping": 0.1, "correction": None}
    return _fitted(w_bits, a_bits, Rounding.GPTQ, ridge, constants | options)


def erq(
    w_bits: int,
    a_bits: int,
    *,
    published: bool = False,
    ridge: float | str | tuple[float, ...] | None = HELD_OUT,
    **options: Any,
) -> QuantConfig:
    """
    Return a config of ERQ's two steps: a ridge against the error of inputs, and rounding by halves against that of weights.

    Channels of norms are brought to one range before, as in RepQ-ViT.

    ridge: the penalty in units of the input's mean second moment, or "held_out": that of `PENALTIES` which held-out images
    want, or none. published: what a product reads is that of the float model, and penalties are near those of the script,
    which are not relative. Other options are fields of `WeightFit`.
    """
    constants: dict[str, Any] = {}
    if published:
        constants |= {"damping": 0.3, "inputs_from": Inputs.FLOAT}
        ridge = 0.3 if ridge == HELD_OUT else ridge
    config = _fitted(w_bits, a_bits, Rounding.ERQ, ridge, constants | options)
    return replace(config, folds=Folds(norms=Reparameterize(strict=False)))


def _fitted(w_bits: int, a_bits: int, rounding: Rounding, ridge: object, options: dict[str, Any]) -> QuantConfig:
    for name, kind in (("correction", Correction), ("inputs_from", Inputs)):
        if options.get(name) is not None:
            options[name] = member(kind, options[name])
    fit = WeightFit(rounding=rounding, ridge=_penalties(ridge), **options)
    weight = TensorSpec(w_bits, signed=True, symmetric=True, granularity=PerChannel(0))
    return QuantConfig(LayerSpec(weight, TensorSpec(a_bits), fit=fit))


def _penalties(ridge: object) -> Any:
    """Return a `WeightFit.ridge` for what people write, which it checks."""
    if isinstance(ridge, str):
        if ridge != HELD_OUT:
            raise ConfigError(f"option ridge must be a number, several in a tuple, {HELD_OUT!r} or None, got {ridge!r}")
        return PENALTIES
    return () if ridge is None else ridge if isinstance(ridge, tuple) else (ridge,)
