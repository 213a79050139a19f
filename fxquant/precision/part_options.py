"""The ways in which the products of one module may be quantised, made from the way that a config has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from fxquant.config.layer_spec import LayerSpec
from fxquant.config.operands import Role, TensorSpec
from fxquant.errors import ConfigError
from fxquant.numerics.granularity import PerToken
from fxquant.observers.minmax import MinMax

INPUTS = (Role.ACTIVATION, Role.NORM, Role.GELU, Role.GATED)


class Activations(str, Enum):
    """How the activations of a part are quantised."""

    AS_CONFIGURED = "as configured"
    INT8 = "int8"  # 8 bits, all else as configured
    PER_TOKEN = "per token"  # the bits as configured
    INT8_PER_TOKEN = "int8 per token"
    FLOAT = "float"  # 16 bits, as a recipe counts them: weights are stored as codes, and the product is one of floats


@dataclass(frozen=True)
class PartOption:
    """weight_bits: None for float weights, with which activations are float too."""

    weight_bits: int | None
    activations: Activations

    def __post_init__(self) -> None:
        if self.weight_bits is None and self.activations is not Activations.FLOAT:
            raise ConfigError(f"float weights have float activations, got {self.activations.value!r}")

    def __str__(self) -> str:
        return "float" if self.weight_bits is None else f"W{self.weight_bits}, {self.activations.value}"


def respecced(layer: LayerSpec, option: PartOption) -> LayerSpec | None:
    """Return `layer` as `option` says, None for float."""
    if option.weight_bits is None:
        return None
    if layer.weight is not None and layer.weight.bits != option.weight_bits:
        layer = replace(layer, weight=replace(layer.weight, bits=option.weight_bits))
    if option.activations is Activations.AS_CONFIGURED:
        return layer
    if option.activations is Activations.FLOAT:
        return layer.weight_only()
    wide = option.activations in (Activations.INT8, Activations.INT8_PER_TOKEN)
    tokens = option.activations in (Activations.PER_TOKEN, Activations.INT8_PER_TOKEN)
    changed: dict[str, Any] = {}
    for role in (role for role in Role if role is not Role.WEIGHT):
        spec = getattr(layer, role.value)
        if spec is not None:
            spec = replace(spec, bits=8) if wide else spec
            changed[role.value] = _per_token(spec) if tokens and role in INPUTS else spec
    return replace(layer, **changed, noise=None if tokens else layer.noise)


def _per_token(spec: Any) -> TensorSpec:
    if isinstance(spec, TensorSpec):
        return replace(spec, granularity=PerToken(), observer=MinMax())
    return TensorSpec(spec.bits, granularity=PerToken())
