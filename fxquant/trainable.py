"""What makes a graph one that is trained with its quantisers."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx, nn

from fxquant.config import QuantConfig
from fxquant.errors import ConfigError
from fxquant.observers.binary import BinaryWeightQuantizer, BinaryWeightStep
from fxquant.observers.learned_step import LearnedStep, LearnedStepQuantizer, LearnedWeightQuantizer
from fxquant.operands import Role, TensorSpec

TRAINABLE = (LearnedStep, BinaryWeightStep)


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
    layers = [config.layer, config.trunk, *(o.spec for o in config.overrides)]
    for layer in (each for each in layers if each is not None):
        for role in Role:
            spec = layer.spec_for(role)
            if spec is not None and not (isinstance(spec, TensorSpec) and isinstance(spec.observer, TRAINABLE)):
                raise ConfigError(
                    f"LayerSpec.{role.value}: training needs learned steps, as TensorSpec(observer=LearnedStep()) or those of "
                    f"recipe('vvtq'), got {spec!r}"
                )


def is_trained(gm: fx.GraphModule) -> bool:
    """Say whether `gm` was made by `fxquant.prepare_qat`."""
    return any(isinstance(module, LearnedStepQuantizer | BinaryWeightQuantizer) for module in gm.modules())


def weight_quantizers(prepared: nn.Module) -> Iterator[tuple[LearnedWeightQuantizer, nn.Parameter]]:
    """Yield each learned quantiser of a weight in a graph of `fxquant.prepare_qat`, with the weight, once."""
    if not isinstance(prepared, fx.GraphModule):
        raise TypeError(f"expected a graph of fxquant.prepare_qat, found a {type(prepared).__name__}")
    seen = set[str]()
    for node in prepared.graph.nodes:
        module = prepared.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, LearnedWeightQuantizer) and str(node.target) not in seen:
            seen.add(str(node.target))
            owner, _, name = str(node.args[0].target).rpartition(".")
            yield module, getattr(prepared.get_submodule(owner), name)
