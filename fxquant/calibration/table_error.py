"""How far the even steps of a table of powers move the output of the product that reads them."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.calibration.problem import Problem
from fxquant.numerics.arithmetic import EPS
from fxquant.observers.adalog import AdaLogObserver


def table_error(problem: Problem, noise: Tensor | None = None) -> tuple[float, float] | None:
    """
    Return how far rounding powers to 8-bit codes moves the output, and how far all quantisation moves it, of the float norm.

    The first is the distance between the output of the quantised product and what it would be with the powers themselves for
    the same exponents (AdaLog, section 3.2), the second that between it and the float output. Scales are those found so far,
    rows those that were searched. noise: what is added to the input, ``(K,)``. What a bias that is corrected takes up is left
    out of both. None where the left operand has no such table.
    """
    (part,) = problem.left.parts
    observer = part.observer
    if not isinstance(observer, AdaLogObserver) or not observer.spec.has_codes:
        return None
    shift = torch.zeros((), device=part.values.device) if noise is None else noise
    values, right = part.values.float() + shift, problem.right.quantized().mT
    rounded, expected = part.quantize(part.qparams, values), part.values.float() @ problem.right.rows().mT
    by_table = (rounded - observer.unrounded(values, part.qparams)) @ right
    in_all = (rounded - shift) @ right - expected
    if problem.centred:
        by_table, in_all = (change - change.mean(-2, keepdim=True) for change in (by_table, in_all))
    norm = (expected if problem.bias is None else expected + problem.bias).norm().clamp(min=EPS)
    return float(by_table.norm() / norm), float(in_all.norm() / norm)
