"""The default: what measures best on a real model at the bits that are asked for, by how long it may take."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

from fxquant.config.folds import Folds, Reparameterize
from fxquant.config.quant_config import QuantConfig
from fxquant.config.recipes.searched import dynamic
from fxquant.config.weight_fit import WeightFit
from fxquant.errors import ConfigError
from fxquant.numerics.granularity import OutlierTokens

RIDGES = (0.3, 1.0, 3.0, 10.0)  # the one that predicts held-out images best is used, or none
SHORT_ITERATIONS = 100  # of reconstruction, for each block
FULL_BITS = 8  # which leave too little to train for
CLIPPED_BITS = 6  # of weights, up to which the largest of a row are better cut off


class Effort(Enum):
    """How long calibration may take."""

    FAST = "fast"  # two runs over the images
    BETTER = "better"  # weights are fitted too: minutes
    BEST = "best"  # below 8 bits, blocks are then reconstructed


def effort_of(value: Effort | str) -> Effort:
    """Return the effort that `value` names; raise `ConfigError` for anything else."""
    try:
        return Effort(value)
    except ValueError:
        known = ", ".join(repr(effort.value) for effort in Effort)
        raise ConfigError(f"effort must be one of {known}, got {value!r}") from None


def default(w_bits: int, a_bits: int, *, effort: Effort | str = Effort.BETTER) -> QuantConfig:
    """
    Return the config of what is most accurate on a pretrained DINOv2, without training.

    Inputs of linear layers have a scale per token, at 8 bits only where a norm or GELU computes it on the way or where there
    are outlier tokens. Channels of norms are brought to one range (RepQ-ViT), and weights are fitted: a ridge against the error
    of the inputs, chosen on held-out images, then GPTQ and the mean of the output.

    effort: an `Effort` or its value; "fast" leaves the weights as they are.
    """
    config = replace(_dynamic(w_bits, a_bits), folds=Folds(norms=Reparameterize(strict=False)))
    if effort_of(effort) is Effort.FAST:
        return config
    fit = WeightFit(ridge=RIDGES, clip=w_bits <= CLIPPED_BITS)
    overrides = tuple(replace(o, spec=o.spec and replace(o.spec, fit=fit)) for o in config.overrides)
    layer = config.layer and replace(config.layer, fit=fit)
    trained = effort_of(effort) is Effort.BEST and min(w_bits, a_bits) < FULL_BITS
    return replace(config, layer=layer, overrides=overrides, reconstruction=SHORT_ITERATIONS if trained else 0)


def _dynamic(w_bits: int, a_bits: int) -> QuantConfig:
    """Return `dynamic`; at 8 bits, without the scales per token that cost time and gain little."""
    config = dynamic(w_bits, a_bits)
    if config.layer is None or a_bits < FULL_BITS:
        return config
    tokens = config.layer.activation
    few = tokens and replace(tokens, granularity=OutlierTokens())
    return replace(config, layer=replace(config.layer, activation=few, norm=tokens, gelu=tokens))
