"""What each part of a model costs in accuracy when it is quantised, and configs that are chosen by it."""

from fxquant.precision.compare import ComparedNode, Comparison, compare
from fxquant.precision.mixed import ChosenPart, MixedPrecision, ParetoPoint, mixed
from fxquant.precision.operand_groups import Grouping
from fxquant.precision.part_options import Activations
from fxquant.precision.precision_budget import Cost, PrecisionBudget
from fxquant.precision.sensitivity import JointCost, SensitivityTable, SiteCost, sensitivity
from fxquant.precision.task_metrics import cosine, top1

__all__ = [
    "Activations",
    "ChosenPart",
    "ComparedNode",
    "Comparison",
    "Cost",
    "Grouping",
    "JointCost",
    "MixedPrecision",
    "ParetoPoint",
    "PrecisionBudget",
    "SensitivityTable",
    "SiteCost",
    "compare",
    "cosine",
    "mixed",
    "sensitivity",
    "top1",
]
