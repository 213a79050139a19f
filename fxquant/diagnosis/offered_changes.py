"""Changes of a config that may help: another recipe, other specs where it hurts most, other images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from fxquant.config.quant_config import QuantConfig
from fxquant.config.recipes.book import recipe
from fxquant.diagnosis.examined import FloatSide
from fxquant.errors import ConfigError, UnsupportedGraphError
from fxquant.graph.inputs import Batch
from fxquant.inspection.report import Report
from fxquant.precision.operand_groups import kind_of_name
from fxquant.precision.part_options import Activations, PartOption, respecced
from fxquant.precision.parts import ModelPart, config_for, parts_of
from fxquant.precision.sensitivity import SensitivityTable, sensitivity

_KINDS, _SINGLE = 2, 1  # the costliest kinds of operands, and single ones, for which changes are offered
_EXACT = 8
_SMALL = 0.01  # of the multiply-accumulates


@dataclass(frozen=True, eq=False)
class OfferedChange:
    """A change by name, with the config and the calibration batches that it means."""

    name: str
    config: QuantConfig
    batches: Sequence[Batch]


def offered_changes(
    source: FloatSide, report: Report, more: Sequence[Batch], alike: Sequence[Batch], progress: bool
) -> tuple[list[OfferedChange], str | None, SensitivityTable | None]:
    """
    Return the changes that are worth trying, why some cannot be offered, and what each operand costs.

    more: further calibration batches. alike: batches that look like those of the evaluation, where the others do not.
    """
    config, batches = source.config, source.batches
    offers = []
    if alike:
        offers.append(OfferedChange("calibrate with images like those of the evaluation", config, alike))
    if more:
        offers.append(OfferedChange("calibrate with more images", config, [*batches, *more]))
    offers += [OfferedChange(name, each, batches) for name, each in _recipes(config)]
    reason, table = None, None
    try:
        table = sensitivity(source.prepared, batches, exact=_EXACT, joint=0, progress=progress, seed=source.seed)
        parts, _ = parts_of(source.prepared, config)
        offers += [OfferedChange(name, each, batches) for name, each in _sites(table, parts, config)]
    except (ConfigError, UnsupportedGraphError) as error:
        reason = f"no single part was changed: {error}"
    offers += [OfferedChange(name, each, batches) for name, each in _opened(config, report)]
    return offers, reason, table


def _recipes(config: QuantConfig) -> Iterator[tuple[str, QuantConfig]]:
    """Yield the default recipe at the bits of `config` and at 8 bits, and the plainest one, then one whose rest is bfloat16."""
    weight, activation = (getattr(getattr(config.layer, name, None), "bits", 8) for name in ("weight", "activation"))
    named = [("default", weight, activation), ("default", 8, 8), ("minmax", weight, activation)]
    for name, w_bits, a_bits in dict.fromkeys(named):
        other = recipe(name, w_bits, a_bits)
        if other != config:
            yield f"recipe {name} at W{w_bits}A{a_bits}", other
    if config.float_dtype is None and config.placement is None:
        yield "compute in bfloat16 what is not int8", replace(config, float_dtype=torch.bfloat16)


def _sites(
    table: SensitivityTable, parts: Sequence[ModelPart], config: QuantConfig
) -> Iterator[tuple[str, QuantConfig]]:
    """Yield other specs for the costliest kinds of operands, then for the costliest single ones."""
    owner = {operand.name: part for part in parts for record in part.records for operand in record.operands}
    costs = [record.name for record in table if record.name in owner]
    kinds = [kind for kind in table.kinds() if any(kind_of_name(name) == kind for name in costs)]
    named = [(kind, [n for n in costs if kind_of_name(n) == kind]) for kind in kinds[:_KINDS]]
    named += [(name, [name]) for name in costs[:_SINGLE]]
    seen = list[QuantConfig]()
    for place, names in named:
        mine = list(dict.fromkeys(owner[name] for name in names))
        for option in _options(mine[0], place.endswith(".weight")):
            changed = {part: part.base for part in parts} | {
                part: _fitting(part, option) for part in mine if option in part.options((8,), tuple(Activations))
            }
            other = config_for(config, parts, changed)
            if other != config and other not in seen:
                seen.append(other)
                yield f"{place.rpartition('.')[0]}: {_said(option)}", other


def _options(part: ModelPart, weight: bool) -> list[PartOption]:
    """Return the options to try for a part of which the weight, or an activation, costs most."""
    bits = part.base.weight_bits
    wide = [PartOption(8, Activations.AS_CONFIGURED)] if weight else [PartOption(bits, Activations.INT8)]
    tokens = [PartOption(bits, Activations.INT8_PER_TOKEN)] if part.linear and not weight else []
    offered = [*tokens, *wide, PartOption(None, Activations.FLOAT)]
    return [option for option in offered if respecced(part.layer, option) != part.layer]


def _fitting(part: ModelPart, option: PartOption) -> PartOption:
    """Return `option` with the weight bits that the part itself has, where it does not change them."""
    kept = option.weight_bits is not None and option.activations is not Activations.AS_CONFIGURED
    return replace(option, weight_bits=part.base.weight_bits) if kept else option


def _said(option: PartOption) -> str:
    if option.weight_bits is None:
        return "float"
    if option.activations is Activations.AS_CONFIGURED:
        return f"weights of {option.weight_bits} bits"
    return f"activations {option.activations.value}"


def _opened(config: QuantConfig, report: Report) -> Iterator[tuple[str, QuantConfig]]:
    """Yield `config` with what it leaves float quantised, where that is more than a little."""
    total = sum(r.macs or 0 for r in report) or 1
    if sum(r.macs or 0 for r in report if r.codes is None and not r.requested) / total > _SMALL:
        other = replace(config, patch_embed=True, head=True, attention=True)
        if other != config:
            yield "quantise what the config leaves float", other
