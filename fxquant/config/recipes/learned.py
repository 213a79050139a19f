"""Configs whose steps are trained: VVTQ's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fxquant.config.layer_spec import LayerSpec
from fxquant.config.operands import TensorSpec
from fxquant.config.quant_config import QuantConfig
from fxquant.errors import ConfigError
from fxquant.numerics.granularity import PerHead, PerProjection
from fxquant.observers import (
    BinaryWeightStep,
    GradientScale,
    LearnedStep,
    LearnedWeightStep,
)


def vvtq(
    w_bits: int,
    a_bits: int,
    *,
    offset: bool = False,
    real_offset: bool = False,
    learned_bits: bool = False,
    head_wise: bool = False,
    trunk_bits: int = 8,
    gradient_scale: GradientScale | str = GradientScale.VARIATION,
    train: bool = True,
) -> QuantConfig:
    """
    Return VVTQ's config, to be trained: learned steps, one for each weight, query, key and value, and for each input.

    The first and last layers, and those between stages, have `trunk_bits`. What GELU gives has an offset; offset: inputs,
    queries, keys and values have one too. learned_bits: bit widths are trained. head_wise: queries, keys, values and
    probabilities, and the rows of weights that compute them, have a step per head, which needs example inputs. train: False
    keeps the initial steps. gradient_scale: "variation" or "lsq" (`GradientScale`). real_offset: see `LearnedStep`. Weights of
    1 bit are signs times one size for all.
    """
    try:
        options: dict[str, Any] = {"gradient_scale": GradientScale(gradient_scale), "train": train}
    except ValueError:
        known = ", ".join(repr(member.value) for member in GradientScale)
        raise ConfigError(f"option gradient_scale must be one of {known}, got {gradient_scale!r}") from None
    step = LearnedStep(real_offset=real_offset, learned_bits=learned_bits, **options)
    weight_step = LearnedWeightStep(learned_bits=learned_bits, **options)
    rows = PerProjection(heads=head_wise)

    def layer(w_bits: int, a_bits: int, offset: bool) -> LayerSpec:
        activation = TensorSpec(a_bits, signed=True, symmetric=not offset, observer=step)
        heads, probabilities = activation, TensorSpec(a_bits, signed=False, symmetric=True, observer=step)
        if head_wise:  # codes of one tensor have one width
            per_head: dict[str, Any] = {"granularity": PerHead(), "observer": replace(step, learned_bits=False)}
            heads, probabilities = replace(heads, **per_head), replace(probabilities, **per_head)
        return LayerSpec(
            weight=_binary_weight(rows) if w_bits == 1 else TensorSpec(w_bits, True, True, rows, weight_step),
            activation=activation,
            gelu=TensorSpec(a_bits, signed=False, symmetric=False, observer=step),
            query=heads,
            key=heads,
            softmax=probabilities,
            value=heads,
        )

    trunk = layer(trunk_bits, trunk_bits, offset)
    plain = layer(trunk_bits, trunk_bits, offset=False)  # of pixels, and of what no norm brings to mean 0
    return QuantConfig(layer(w_bits, a_bits, offset), attention=True, trunk=replace(plain, norm=trunk.activation))


def _binary_weight(rows: PerProjection) -> TensorSpec:
    return TensorSpec(2, True, True, rows, BinaryWeightStep(), narrow=True)
