"""Placements of quantisers in published systems: which values FQ-ViT, PTQ-for-iTPN, PSAQ-ViT and VVTQ round."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import Any

from fxquant.config.layer_spec import LayerSpec
from fxquant.config.operands import IntegerNorm, TensorSpec
from fxquant.config.placement import Placement
from fxquant.config.quant_config import QuantConfig
from fxquant.errors import ConfigError
from fxquant.numerics.granularity import PerChannel, PerHead, PerTensor
from fxquant.observers import (
    EMA,
    OMSE,
    MinMax,
    ObserverOptions,
    Percentile,
    PowerOfTwoFactor,
)
from fxquant.observers.log2 import Log2, LogIntSoftmax
from fxquant.observers.operand_spec import OperandSpec

OBSERVERS: dict[str, type[ObserverOptions]] = {"minmax": MinMax, "ema": EMA, "omse": OMSE, "percentile": Percentile}


class SoftmaxCodes(Enum):
    """What probabilities become."""

    UNIFORM = "uniform"
    LOG2 = "log2"
    LOG_INT = "log_int"  # the softmax itself is computed on integers


def fqvit(
    w_bits: int,
    a_bits: int,
    *,
    observer: str = "minmax",
    power_of_two: bool = True,
    softmax: SoftmaxCodes | str = SoftmaxCodes.LOG_INT,
    softmax_bits: int | None = None,
    per_head: bool = False,
    integer_norm: bool = False,
    image: bool = True,
    **options: Any,
) -> QuantConfig:
    """
    Return FQ-ViT's config: each value between two operators is rounded, from the image to the logits (Lin et al., IJCAI 2022).

    power_of_two: what layer norms read has a power-of-two factor per channel. softmax_bits: 4 for powers of two, else `a_bits`.
    per_head: scores and uniform probabilities have a scale per head. integer_norm: layer norms are computed on integers. Other
    options go to the observer.
    """
    activation = TensorSpec(a_bits, observer=_observer(observer, options))
    stream = activation
    if power_of_two:
        stream = TensorSpec(a_bits, granularity=PerChannel(-1), observer=PowerOfTwoFactor())
    scores = _with_heads(activation, per_head)
    placement = Placement(
        image=activation if image else None,
        patches=activation,
        concat=activation,
        position=activation,
        embedding=stream,
        norm=IntegerNorm(a_bits, observer=activation.observer) if integer_norm else activation,
        linear=activation,
        merged=stream,
        scores=scores,
        score_bias=activation,
        biased_scores=scores,
        probabilities=_probabilities(scores, softmax, softmax_bits),
        context=activation,
        residual=stream,
        gelu=activation,
        gated=activation,
        pooled=activation,
        logits=activation,
    )
    return QuantConfig(LayerSpec(_weight(w_bits)), attention=True, placement=placement)


def itpn(
    w_bits: int,
    a_bits: int,
    *,
    observer: str = "minmax",
    softmax: SoftmaxCodes | str = SoftmaxCodes.UNIFORM,
    softmax_bits: int | None = None,
    per_head: bool = False,
    **options: Any,
) -> QuantConfig:
    """
    Return PTQ-for-iTPN's config: results of linear layers, of GELU and of both attention products are rounded, norms are not.

    Layers behind a norm therefore read floats, and only their weights are quantised. Options are those of `fqvit`.
    """
    activation = TensorSpec(a_bits, observer=_observer(observer, options))
    scores = _with_heads(activation, per_head)
    placement = Placement(
        linear=activation,
        merged=activation,
        scores=scores,
        probabilities=_probabilities(scores, softmax, softmax_bits),
        context=activation,
        gelu=activation,
        gated=activation,
    )
    return QuantConfig(LayerSpec(_weight(w_bits)), patch_embed=False, head=False, attention=True, placement=placement)


def psaq(w_bits: int, a_bits: int, *, observer: str = "minmax", image: bool = True, **options: Any) -> QuantConfig:
    """Return PSAQ-ViT's config: that of FQ-ViT with one scale per value, and float probabilities (Li et al., ECCV 2022)."""
    activation = TensorSpec(a_bits, observer=_observer(observer, options))
    names = ("patches", "concat", "position", "embedding", "norm", "linear", "merged", "scores", "score_bias")
    names += (
        "biased_scores",
        "context",
        "residual",
        "gelu",
        "gated",
        "pooled",
        "logits",
        *(("image",) if image else ()),
    )
    placement = Placement(**dict.fromkeys(names, activation))
    return QuantConfig(LayerSpec(_weight(w_bits)), attention=True, placement=placement)


def _observer(name: str, options: dict[str, Any]) -> ObserverOptions:
    if name not in OBSERVERS:
        raise ConfigError(f"unknown observer {name!r}: expected one of {', '.join(OBSERVERS)}")
    return OBSERVERS[name](**options)


def _probabilities(scores: TensorSpec, kind: SoftmaxCodes | str, bits: int | None) -> OperandSpec:
    try:
        kind = SoftmaxCodes(kind)
    except ValueError:
        known = ", ".join(repr(member.value) for member in SoftmaxCodes)
        raise ConfigError(f"option softmax must be one of {known}, got {kind!r}") from None
    if kind is SoftmaxCodes.UNIFORM:
        return replace(scores, bits=scores.bits if bits is None else bits)
    return (LogIntSoftmax if kind is SoftmaxCodes.LOG_INT else Log2)(4 if bits is None else bits)


def _with_heads(spec: TensorSpec, per_head: bool) -> TensorSpec:
    return replace(spec, granularity=PerHead() if per_head else PerTensor())


def _weight(bits: int) -> TensorSpec:
    return TensorSpec(bits, signed=True, symmetric=True, granularity=PerChannel(0))
