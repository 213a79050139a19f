"""What each part of a model costs in accuracy when it is quantised, and configs that are chosen by it."""

from fxquant.precision.compare import ComparedNode, Comparison, compare
from fxquant.precision.operand_groups import Grouping
from fxquant.precision.sensitivity import JointCost, SensitivityTable, SiteCost, sensitivity
from fxquant.precision.task_metrics import cosine, top1

__all__ = [
    "ComparedNode",
    "Comparison",
    "Grouping",
    "JointCost",
    "SensitivityTable",
    "SiteCost",
    "compare",
    "cosine",
    "sensitivity",
    "top1",
]
