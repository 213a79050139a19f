"""Named configs: the methods people compare, with their published constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fxquant.config.folds import Folds, Reparameterize
from fxquant.config.layer_spec import LayerSpec
from fxquant.config.operands import TensorSpec, check_bool
from fxquant.config.quant_config import QuantConfig
from fxquant.config.recipes.member import member
from fxquant.config.search import Gradient, Inputs, Metric, Noise, NoisyBias, ScaleSearch
from fxquant.numerics.granularity import (
    Granularity,
    OutlierTokens,
    PerChannel,
    PerHead,
    PerProjection,
    PerTensor,
    PerToken,
)
from fxquant.observers import ObserverOptions
from fxquant.observers.adalog import AdaLogGELU, AdaLogSoftmax
from fxquant.observers.twin import TwinGELU, TwinSoftmax

IMAGE_BITS = 8  # of what convolutions read, pixels above all, which have 8; the published codes leave them float


def statistics(observer: Callable[..., ObserverOptions], w_bits: int, a_bits: int, **options: Any) -> QuantConfig:
    """Return a config of an observer for activations: affine, unsigned, per tensor (FQ-ViT)."""
    return QuantConfig(LayerSpec(_weight(w_bits, PerChannel(0)), TensorSpec(a_bits, observer=observer(**options))))


def dynamic(w_bits: int, a_bits: int, *, symmetric: bool = False, outliers: float | None = None) -> QuantConfig:
    """
    Return a config in which the input of each linear layer has a scale per token, computed at run time.

    symmetric: without zero points. outliers: only where a token has more than so many times the median token's range, see
    `OutlierTokens`; None for everywhere. What convolutions read, and operands of attention, have one scale, by minimum and
    maximum.
    """
    check_bool("option symmetric", symmetric)
    weight, static = _weight(w_bits, PerChannel(0)), TensorSpec(a_bits)
    tokens = PerToken() if outliers is None else OutlierTokens(outliers)
    layer = LayerSpec(
        weight,
        TensorSpec(a_bits, signed=symmetric, symmetric=symmetric, granularity=tokens),
        query=static,
        key=static,
        softmax=static,
        value=static,
    )
    return QuantConfig(layer).set_object_type("conv2d", LayerSpec(weight, TensorSpec(IMAGE_BITS)))


def ptq4vit(
    w_bits: int,
    a_bits: int,
    *,
    published: bool = False,
    per_channel: bool | None = None,
    twin_softmax: bool = True,
    twin_gelu: bool = True,
    power_of_two: bool = False,
    **search: Any,
) -> QuantConfig:
    """Return PTQ4ViT's config; `published` has the constants of its code."""
    scales = _search(published, search)
    if per_channel is None:
        # A direction says nothing about the scale of a single channel.
        per_channel = not published and scales.metric not in (Metric.COSINE, Metric.PEARSON)
    rows: Granularity = PerChannel(0) if per_channel else PerProjection()
    heads = TensorSpec(a_bits, signed=True, symmetric=True, granularity=PerHead())
    layer = LayerSpec(
        weight=_weight(w_bits, rows),
        activation=TensorSpec(a_bits, signed=True, symmetric=True),
        gelu=TwinGELU(a_bits, power_of_two=power_of_two, published=published) if twin_gelu else None,
        softmax=TwinSoftmax(a_bits, published=published) if twin_softmax else heads,
        query=heads,
        key=heads,
        value=heads,
        search=scales,
    )
    # The published PTQ4ViT has one scale per channel here, BasePTQ a single one.
    channels = per_channel or (published and (twin_softmax or twin_gelu))
    filters = _weight(w_bits, PerChannel(0) if channels else PerTensor())
    image = None if published else TensorSpec(IMAGE_BITS)
    patches = replace(layer, weight=filters, activation=image, gelu=None)
    return QuantConfig(layer, attention=True).set_object_type("conv2d", patches)


def adalog(
    w_bits: int,
    a_bits: int,
    *,
    published: bool = False,
    softmax: bool | None = None,
    gelu: bool | None = None,
    **search: Any,
) -> QuantConfig:
    """
    Return AdaLog's config: affine codes, and powers of searched bases behind softmax and GELU; `published`: see there.

    softmax, gelu: whether powers are used behind it. None is below 8 bits: the table of 8-bit powers has values of the even
    8-bit codes alone, and fewer of them.
    """
    softmax, gelu = (published or a_bits < 8 if each is None else each for each in (softmax, gelu))
    heads = TensorSpec(a_bits, granularity=PerHead())
    weight = TensorSpec(w_bits, granularity=PerChannel(0))
    layer = LayerSpec(
        weight=weight,
        activation=TensorSpec(a_bits),
        gelu=AdaLogGELU(a_bits, published) if gelu else None,
        softmax=AdaLogSoftmax(a_bits, published) if softmax else heads,
        query=heads,
        key=heads,
        value=heads,
        search=_search(False, {"metric": Metric.L2, "weights_first": True} | search),
    )
    patches = replace(layer, activation=TensorSpec(IMAGE_BITS), gelu=None)
    folds = Folds(norms=Reparameterize(strict=False))
    return QuantConfig(layer, attention=True, folds=folds).set_object_type("conv2d", patches)


def base_ptq(w_bits: int, a_bits: int, *, published: bool = False, **options: Any) -> QuantConfig:
    """Return BasePTQ: uniform quantisers alone."""
    twins = {"twin_softmax": False, "twin_gelu": False}
    if published:
        options = {"smallest": 0.5, "metric": Metric.COSINE} | options
    return ptq4vit(w_bits, a_bits, published=published, **(twins | {"rounds": 1} | options))


def _search(published: bool, options: dict[str, Any]) -> ScaleSearch:
    if published:
        constants: dict[str, Any] = {"metric": Metric.HESSIAN, "gradient": Gradient.PREDICTION, "max_rows": None}
        options = constants | {"coarse": False, "geometric": False, "weights_first": True} | options
    else:
        options = {"metric": Metric.FISHER} | options
    for name, kind in (("metric", Metric), ("gradient", Gradient), ("inputs_from", Inputs)):
        if name in options:
            options[name] = member(kind, options[name])
    return ScaleSearch(**options)


def noisyquant(
    w_bits: int,
    a_bits: int,
    *,
    published: bool = False,
    clip: bool = True,
    weights: bool | None = None,
    noise: Noise | str | None = None,
    mean: bool = True,
    range: bool = True,
    **search: Any,
) -> QuantConfig:
    """Return NoisyQuant's config; `published` has the constants of its code, which leaves head and patches float."""
    weights = not published if weights is None else weights
    options: dict[str, Any] = {"inputs_from": Inputs.QUANTISED, "inputs": clip, "weights": weights}
    if published:
        unit = 0.001 * _largest_value(a_bits)
        options |= {"weight_error": False, "smallest": unit, "largest": 1001 * unit, "steps": 1000}
        options |= {"metric": Metric.L2, "rounds": 1, "clip_evenly": True}
    else:
        options |= {"smallest": 0.001, "steps": 150}  # the published clipping goes as far, in even steps
    layer = LayerSpec(
        weight=_weight(w_bits, PerChannel(0), narrow=published),
        activation=TensorSpec(a_bits, signed=True, symmetric=True),
        search=_search(published, options | search),
        noise=_noisy_bias(published, noise, mean, range) if mean or range else None,
    )
    config = QuantConfig(layer, patch_embed=not published, head=not published)
    scales = layer.search and replace(layer.search, clip_evenly=False)
    return config.set_object_type("conv2d", replace(layer, activation=TensorSpec(IMAGE_BITS), search=scales))


def vanilla(w_bits: int, a_bits: int) -> QuantConfig:
    """Return the starting point of NoisyQuant: the largest value that quantised products give, and nothing else."""
    scale = _largest_value(a_bits)
    search = ScaleSearch(
        smallest=scale, largest=2 * scale, steps=1, rounds=1, inputs_from=Inputs.QUANTISED, weights=False
    )
    layer = LayerSpec(
        weight=_weight(w_bits, PerChannel(0), narrow=True),
        activation=TensorSpec(a_bits, signed=True, symmetric=True),
        search=search,  # of one candidate
    )
    image = replace(layer, activation=TensorSpec(IMAGE_BITS), search=replace(search, inputs=False))
    return QuantConfig(layer).set_object_type("conv2d", image)


def noisyquant_ptq4vit(
    w_bits: int,
    a_bits: int,
    *,
    published: bool = False,
    noise: Noise | str | None = None,
    mean: bool = True,
    range: bool = True,
    **options: Any,
) -> QuantConfig:
    """Return PTQ4ViT's config with NoisyQuant's biases on all inputs of linear layers."""
    bias = _noisy_bias(published, noise, mean, range)

    def noisy(layer: LayerSpec | None) -> LayerSpec | None:
        return layer and replace(layer, noise=bias)

    config = ptq4vit(w_bits, a_bits, published=published, **options)
    overrides = tuple(replace(o, spec=noisy(o.spec)) for o in config.overrides)
    return replace(config, layer=noisy(config.layer), overrides=overrides)


def _noisy_bias(published: bool, noise: Noise | str | None, mean: bool, range: bool) -> NoisyBias:
    noise = (Noise.NORMAL if published else Noise.FITTED) if noise is None else member(Noise, noise)
    return NoisyBias(noise=noise, mean=mean, range=range, coarse=not published)


def _largest_value(bits: int) -> float:
    """Return max / (2^(b-1) - 1) in units of the scale that the observer gives, max / (2^(b-1) - 0.5)."""
    largest: int = 2 ** (bits - 1) - 1
    return (largest + 0.5) / largest


def _weight(bits: int, granularity: Granularity, narrow: bool = False) -> TensorSpec:
    return TensorSpec(bits, signed=True, symmetric=True, granularity=granularity, narrow=narrow)
