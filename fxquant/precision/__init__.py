"""What each part of a model costs in accuracy when it is quantised, and configs that are chosen by it."""

from fxquant.precision.compare import ComparedNode, Comparison, compare
from fxquant.precision.task_metrics import cosine, top1

__all__ = ["ComparedNode", "Comparison", "compare", "cosine", "top1"]
