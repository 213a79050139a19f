"""``--auto BUDGET``: the config is chosen part by part before the model is calibrated."""

from __future__ import annotations

import argparse
from typing import Any

from torch import nn

from fxquant.config.quant_config import QuantConfig
from fxquant.distributed import shard
from fxquant.measurement.experiment import Batches
from fxquant.precision.mixed import mixed
from fxquant.precision.precision_budget import PrecisionBudget


def resolve_budget(options: argparse.Namespace) -> PrecisionBudget | None:
    """Return the budget that ``--auto`` names, None where it is not given; raise `ConfigError` for what is none."""
    return None if options.auto is None else PrecisionBudget.parse(options.auto)


def chosen_config(
    model: nn.Module, config: QuantConfig, calibration: Batches, options: argparse.Namespace, facts: dict[str, Any]
) -> QuantConfig:
    """
    Return `config` as ``--auto`` changes it, or as it is; print what was chosen, and put it into `facts`.

    calibration: all batches, of which each rank of a process group takes its own; a budget of drop is one of top-1 on them.
    """
    budget = resolve_budget(options)
    if budget is None:
        return config
    metric = None if budget.drop is None else "top1"
    found = mixed(model, shard(calibration), budget, config, metric=metric, points=0, seed=options.seed)
    print(f"\n{found}\n")
    facts["auto"] = found.to_dict()
    return found.config
