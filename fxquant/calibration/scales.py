"""Search the scales of one product: both sides in turn, until nothing changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fxquant.calibration.grid import Scorer, minimise, score_here
from fxquant.calibration.problem import Problem
from fxquant.calibration.sides import Side


def search_scales(
    problem: Problem, order: Sequence[Side], rounds: int, coarse: bool, scorer: Scorer = score_here
) -> int:
    """
    Let each side of `order` choose its best scales, with the other side as it is by then; return the rounds that it took.

    The candidates of a side are multiples of its initial scale and do not depend on what was found (PTQ4ViT, Algorithm 1).
    """
    chosen: list[torch.Tensor | None] = [None] * len(order)
    settled = 0  # sides in a row that chose as before
    for turn in range(rounds * len(order)):
        # All others are as they were when this side chose.
        if turn >= len(order) and settled >= len(order) - 1:
            return turn // len(order)
        number = turn % len(order)
        side = order[number]
        before = chosen[number]
        first = side.first(before) if coarse else range(side.steps)
        index = minimise(problem.losses_of(side), side.groups, side.steps, first, side.parts[0].values, scorer)
        settled = settled + 1 if before is not None and torch.equal(before, index) else 0
        chosen[number] = index
        side.choose(index)
    return rounds
