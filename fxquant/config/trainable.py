"""What makes a graph one that is trained with its quantisers."""

from __future__ import annotations

from fxquant.config.operands import Role
from fxquant.config.quant_config import QuantConfig
from fxquant.errors import ConfigError


def refuse_untrainable(config: QuantConfig) -> None:
    """Raise `ConfigError` where a config quantises an operand by anything but a learned step."""
    if config.placement is not None:
        raise ConfigError(
            "a placement observes values, and has no learned steps: train with a config such as recipe('vvtq')"
        )
    if config.float_dtype is not None:
        raise ConfigError(
            "float_dtype is for the converted model: train in float32 or under autocast, and leave it out"
        )
    if config.folds is not None:
        raise ConfigError("folds write constants in the place of parameters, which training needs: leave them out")
    layers = [config.layer, config.trunk, *(o.spec for o in config.overrides)]
    for layer in (each for each in layers if each is not None):
        for role in Role:
            spec = layer.spec_for(role)
            if spec is not None and not spec.trained:
                raise ConfigError(
                    f"LayerSpec.{role.value}: training needs learned steps, as TensorSpec(observer=LearnedStep()) or those of "
                    f"recipe('vvtq'), got {spec!r}"
                )
