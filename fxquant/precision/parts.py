"""The parts of a model that a config can speak of by name: what each is, and how it is quantised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fxquant.config.layer_spec import LayerSpec
from fxquant.config.operands import Role
from fxquant.config.quant_config import QuantConfig
from fxquant.errors import ConfigError, UnsupportedGraphError
from fxquant.graph.meta import Record, known_value, record_of
from fxquant.inspection.report import multiply_accumulates
from fxquant.precision.part_options import Activations, PartOption, respecced
from fxquant.precision.precision_budget import Cost

_OPERATORS: dict[Any, str] = {F.linear: "linear", F.conv2d: "conv2d", torch.matmul: "matmul"}
_RANGE = 64  # bit operations for each value of which a scale per token finds minimum and maximum
_FLOAT_BITS = 32
_FLOATS = (_FLOAT_BITS, _FLOAT_BITS)


@dataclass(eq=False)
class ModelPart:
    """
    The products of one module, which an override names together.

    layer: how the config has it. weights: how many there are. macs, inputs: multiply-accumulates, and the values that its
    linear layers read, of the batch that the shapes are of. linear: whether all products are linear layers, whose inputs can
    have a scale per token.
    """

    name: str
    layer: LayerSpec
    base: PartOption
    weights: int = 0
    macs: int = 0
    inputs: int = 0
    linear: bool = True
    records: list[Record] = field(default_factory=list)

    def options(self, weight_bits: Iterable[int], activations: Iterable[Activations]) -> list[PartOption]:
        """Return the ways in which it may be quantised, the configured one first; no two give the same spec."""
        forms = [a for a in activations if self.linear or a not in (Activations.PER_TOKEN, Activations.INT8_PER_TOKEN)]
        bits = dict.fromkeys([self.base.weight_bits, *(weight_bits if self.weights else ())])
        wanted = [self.base, *(PartOption(b, a) for b in bits for a in (Activations.AS_CONFIGURED, *forms))]
        if Activations.FLOAT in forms:
            wanted.append(PartOption(None, Activations.FLOAT))
        made: dict[LayerSpec | None, PartOption] = {}
        for option in wanted:
            made.setdefault(respecced(self.layer, option), option)
        return list(made.values())

    def costs(self, option: PartOption, of: Whole, seconds: Mapping[Activations, float]) -> dict[Cost, float]:
        """Return what it costs; of: the whole model, as shares and means are of all parts. seconds: by its activations."""
        bits = self._bits(option)
        tokens = option.activations in (Activations.PER_TOKEN, Activations.INT8_PER_TOKEN)
        return of.costs(
            self.weights,
            _FLOAT_BITS if option.weight_bits is None or self.layer.weight is None else option.weight_bits,
            self.macs,
            bits,
            _RANGE * self.inputs if tokens else 0,
        ) | {Cost.LATENCY: seconds.get(_timed_as(option), 0.0)}

    def _bits(self, option: PartOption) -> tuple[int, int]:
        layer = respecced(self.layer, option)
        specs = [] if layer is None else [layer.spec_for(operand.role) for r in self.records for operand in r.operands]
        if not specs or any(spec is None for spec in specs):
            return _FLOATS
        known = [(spec.qmax - spec.qmin).bit_length() for spec in specs if spec is not None]
        return max(known[::2]), max(known[1::2])


@dataclass(frozen=True)
class Whole:
    """The weights and the multiply-accumulates of all products together, quantised or not."""

    weights: int
    macs: int

    def costs(self, weights: int, stored: int, macs: int, bits: tuple[int, int], more: int = 0) -> dict[Cost, float]:
        """Return what a part of it costs: `weights` of `stored` bits, `macs` of operands of `bits`, `more` bit operations."""
        return {
            Cost.MEAN_BITS: weights * stored / max(1, self.weights),
            Cost.BIT_OPERATIONS: macs * bits[0] * bits[1] + more,
            Cost.SIZE: weights * stored / 8,
            Cost.FLOAT_SHARE: macs / max(1, self.macs) if bits == _FLOATS else 0.0,
            Cost.LATENCY: 0.0,
        }

    def rest(self, parts: Sequence[ModelPart]) -> dict[Cost, float]:
        """Return what the products cost that are in none of `parts`, all of them float."""
        weights, macs = self.weights - sum(p.weights for p in parts), self.macs - sum(p.macs for p in parts)
        return self.costs(weights, _FLOAT_BITS, macs, _FLOATS)


def parts_of(prepared: fx.GraphModule, config: QuantConfig) -> tuple[list[ModelPart], Whole]:
    """
    Return the parts of `prepared` that are quantised, in the order of the graph, and the whole they are parts of.

    Raises `ConfigError` for a config that places values, `UnsupportedGraphError` where nothing that is quantised has a name.
    """
    if config.placement is not None or config.trunk is not None:
        raise ConfigError("mixed precision chooses for matrix products: it takes no config with a placement or a trunk")
    found: dict[str, ModelPart] = {}
    weights = macs = 0
    for node in prepared.graph.nodes:
        record = record_of(node)
        if record is None:
            continue
        own, count = _weights(node, record), multiply_accumulates(node) or 0
        weights, macs = weights + own, macs + count
        if record.module and any(operand.spec is not None for operand in record.operands):
            part = found.setdefault(record.module, _part(node, record, config))
            part.records.append(record)
            part.weights += own
            part.macs += count
            part.linear &= node.target is F.linear
            part.inputs += known_value(node.args[0]).numel() if node.target is F.linear else 0
    if not found:
        raise UnsupportedGraphError("expected a model in which a module with a name is quantised: there is none")
    return list(found.values()), Whole(weights, macs)


def config_for(config: QuantConfig, parts: Sequence[ModelPart], options: Mapping[ModelPart, PartOption]) -> QuantConfig:
    """Return `config` with an override for each part that has another option than the configured one, or is inside such."""
    changed = [part.name for part in parts if options[part] != part.base]
    for part in parts:
        if any(part.name == name or part.name.startswith(f"{name}.") for name in changed):
            config = config.set_module_name(part.name, respecced(part.layer, options[part]))
    return config


def _timed_as(option: PartOption) -> Activations:
    """Return the activations that take as long: integer products take as long at any bits."""
    same = {Activations.AS_CONFIGURED: Activations.INT8, Activations.PER_TOKEN: Activations.INT8_PER_TOKEN}
    return same.get(option.activations, option.activations)


def _part(node: fx.Node, record: Record, config: QuantConfig) -> ModelPart:
    override = config.override_for(_OPERATORS[node.target], record.module)
    layer = (override.spec if override is not None else config.layer) or LayerSpec(None, None)
    weight = layer.weight
    return ModelPart(record.module, layer, PartOption(8 if weight is None else weight.bits, Activations.AS_CONFIGURED))


def _weights(node: fx.Node, record: Record) -> int:
    return known_value(node.args[1]).numel() if any(o.role is Role.WEIGHT for o in record.operands) else 0
