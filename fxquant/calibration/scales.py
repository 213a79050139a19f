"""Search the scales of one product: both sides in turn, until nothing changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fxquant.calibration.grid import minimise
from fxquant.calibration.operand import Side
from fxquant.calibration.problem import Problem


def search_scales(problem: Problem, order: Sequence[Side], rounds: int, coarse: bool) -> int:
    """
    Let each side of `order` choose its best scales, with the other side as it is by then; return the rounds that it took.

    The candidates of a side are multiples of its initial scale and do not depend on what was found (PTQ4ViT, Algorithm 1).
    """
    previous: dict[int, torch.Tensor] = {}
    for done in range(1, rounds + 1):
        changed = False
        for number, side in enumerate(order):
            others = [i for i in range(len(order)) if i != number]
            # Nothing that it depends on has moved since it last chose.
            if number in previous and not changed and not others:
                continue
            first = side.first if coarse else range(side.steps)
            index = minimise(problem.losses_of(side), side.groups, side.steps, first, side.parts[0].values)
            if number not in previous or not torch.equal(previous[number], index):
                changed = True
            previous[number] = index
            side.choose(index)
        if not changed:
            return done
    return rounds
