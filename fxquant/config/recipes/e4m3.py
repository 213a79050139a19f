"""Any recipe on float8 codes, as far as what it does has a float8 form."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fxquant.config.float8 import OBSERVERS, Float8
from fxquant.config.layer_spec import LayerSpec
from fxquant.config.operands import Role, TensorSpec
from fxquant.config.quant_config import QuantConfig
from fxquant.errors import ConfigError
from fxquant.observers.adalog import AdaLogGELU
from fxquant.observers.operand_spec import OperandSpec
from fxquant.observers.twin import TwinGELU

_INPUTS = (Role.WEIGHT, Role.ACTIVATION, Role.NORM, Role.GELU, Role.GATED)  # of linear layers and convolutions
_REMEDIES: dict[type, str] = {TwinGELU: "use twin_gelu=False", AdaLogGELU: "use gelu=False"}
_OTHERWISE = "use another recipe, such as 'default' or 'minmax'"


def as_float8(config: QuantConfig) -> QuantConfig:
    """
    Return a config that quantises to e4m3 what `config` quantises to integers of 8 bits, with the same scales shared.

    Zero points go, as zero is a code. Products of two activations, inside attention, stay float: these have no float8 form. So
    does the patch embedding unless it is switched on: e4m3 keeps 4 of the 8 bits of a pixel.

    Raises `ConfigError`, which says what to do, for what is made for even steps: placements, noisy biases, twin-uniform codes,
    powers, learned steps, and other bits than 8.
    """
    if config.placement is not None:
        raise ConfigError(
            f"codes='e4m3' are for operands of products, and this recipe rounds values between them: {_OTHERWISE}"
        )
    overrides = tuple(replace(o, spec=o.spec and _layer(o.spec)) for o in config.overrides)
    return replace(
        config,
        patch_embed=False,
        layer=config.layer and _layer(config.layer),
        trunk=config.trunk and _layer(config.trunk),
        overrides=overrides,
    )


def _layer(layer: LayerSpec) -> LayerSpec:
    if layer.noise is not None:
        raise ConfigError(
            f"codes='e4m3': a noisy bias makes up for even steps, which e4m3 codes do not have: {_OTHERWISE}"
        )
    specs: dict[str, Any] = {role.value: _operand(role, getattr(layer, role.value)) for role in _INPUTS}
    return replace(layer, **specs | {role.value: None for role in Role if role not in _INPUTS})


def _operand(role: Role, spec: OperandSpec | None) -> Float8 | None:
    if spec is None:
        return None
    if type(spec) is not TensorSpec or type(spec.observer) not in OBSERVERS:
        kind = type(spec.observer if type(spec) is TensorSpec else spec)
        raise ConfigError(
            f"codes='e4m3': {kind.__name__} ({role.value}) has no e4m3 form: {_REMEDIES.get(kind, _OTHERWISE)}"
        )
    if spec.bits != 8:
        raise ConfigError(
            f"codes='e4m3' have 8 bits, got {spec.bits} ({role.value}): use 8 bits for weights, and 8 or 16 for activations"
        )
    return Float8(granularity=spec.granularity, observer=spec.observer)
