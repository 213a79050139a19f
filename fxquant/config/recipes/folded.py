"""Recipes that change the float model before it is quantised, at no cost at run time: RepQ-ViT, rotation and GLF-Q."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fxquant.config.folds import Folds, Reparameterize
from fxquant.config.iterations import PUBLISHED_ITERATIONS
from fxquant.config.layer_spec import LayerSpec
from fxquant.config.operands import TensorSpec
from fxquant.config.quant_config import QuantConfig
from fxquant.config.recipes.searched import statistics
from fxquant.config.weight_fit import WeightFit
from fxquant.numerics.granularity import PerChannel
from fxquant.observers import OMSE


def repq(w_bits: int, a_bits: int, **options: Any) -> QuantConfig:
    """
    Return a config in which the channels of each norm are brought to one range (RepQ-ViT, section 4.2).

    Options go to the observer of activations, `OMSE`, whose candidates reach the largest value, as the published quantiles do
    not. Attention stays float unless it is switched on; its softmax then has even steps, and not the published logarithm.
    """
    return replace(statistics(OMSE, w_bits, a_bits, **options), folds=Folds(norms=Reparameterize()))


def rotate(w_bits: int, a_bits: int, *, heads: bool = True, seed: int = 0) -> QuantConfig:
    """
    Return a config in which the residual stream is turned by a random Hadamard matrix, and weights are fitted (GPTQ).

    heads: turn queries and keys, and values, within each head as well. seed: of the matrices. Where a fold is not exact, as of
    heads with rotary positions, `fxquant.prepare` says so.
    """
    layer = LayerSpec(_weight(w_bits), TensorSpec(a_bits, observer=OMSE()), fit=WeightFit(clip=True))
    return QuantConfig(layer, folds=Folds(rotate=True, rotate_heads=heads, seed=seed))


def glfq(w_bits: int, a_bits: int, *, iterations: int = PUBLISHED_ITERATIONS, seed: int = 0) -> QuantConfig:
    """
    Return GLF-Q's config: a rotated model with one scale per activation, attention included, whose blocks are reconstructed.

    iterations: of each block. Its replacement of GELU by ReLU changes the float model and is left out.
    """
    layer = LayerSpec(_weight(w_bits), TensorSpec(a_bits, observer=OMSE()))
    folds = Folds(rotate=True, rotate_heads=True, seed=seed)
    return QuantConfig(layer, attention=True, folds=folds, reconstruction=iterations)


def _weight(bits: int) -> TensorSpec:
    return TensorSpec(bits, signed=True, symmetric=True, granularity=PerChannel(0))
