"""Find the best of a grid of candidates, for many groups at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

BEAM = 3  # how many of the best candidates so far are looked around
RATIO = 1.3  # between the scales of a first sample: a scale matters by its ratio to others
EVEN = 32  # candidates of a first, even sample
OFFSETS = (-8, -2, 0, 2, 8)  # from a candidate that was best when the other operand had other scales

Losses: TypeAlias = Callable[[Tensor], Tensor]
Scorer: TypeAlias = Callable[[Losses, Sequence[Tensor]], Sequence[Tensor]]


def score_here(losses: Losses, candidates: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the losses of each of the `candidates`, one after the other."""
    return [losses(index) for index in candidates]


def minimise(
    losses: Losses,
    groups: int,
    steps: int,
    first: Iterable[int | Tensor],
    like: Tensor,
    scorer: Scorer = score_here,
) -> Tensor:
    """
    Return the candidate with the least loss of each group, int64 ``(groups,)`` in 0..steps-1; among equals the first.

    losses: maps one candidate of each group, ``(groups,)``, to their losses, ``(groups,)``. first: the candidates that are
    scored before all others, each a number for all groups or ``(groups,)``. scorer: how several candidates are scored that do
    not depend on each other. Results live on the device of `like`.

    After `first`, each group scores the middle between its `BEAM` best candidates and their scored neighbours, until nothing
    lies between. This finds the best of all candidates if the loss only falls on the way to it from its neighbours in `first`,
    and in any case if `first` is ``range(steps)``.
    """
    search = _Search(losses, torch.full((steps, groups), torch.inf, dtype=torch.float64, device=like.device), scorer)
    search.score([torch.as_tensor(i, dtype=torch.int64, device=like.device).expand(groups) for i in first])
    while search.look_between():
        pass
    return search.table.argmin(dim=0)


def log_spaced(factors: Sequence[float]) -> list[int]:
    """Return positions of increasing `factors`, from the first to the last, each at least `RATIO` times the one before."""
    chosen = [0]
    for position, factor in enumerate(factors):
        if factor >= RATIO * factors[chosen[-1]]:
            chosen.append(position)
    return sorted({*chosen, len(factors) - 1})


def around(index: Tensor, steps: int) -> list[int | Tensor]:
    """Return candidates ``(groups,)`` at `OFFSETS` from ``index[g]``, and the ends of ``range(steps)``."""
    return [0, steps - 1, *((index + offset).clamp(0, steps - 1) for offset in OFFSETS)]


def evenly_spaced(steps: int) -> list[int]:
    """Return about `EVEN` positions in ``range(steps)``, the first and the last among them."""
    return sorted({*range(0, steps, max(1, steps // EVEN)), steps - 1})


class _Search:
    """The losses known so far, ``(steps, groups)``, infinite where they are not."""

    def __init__(self, losses: Losses, table: Tensor, scorer: Scorer) -> None:
        self.losses, self.table, self.scorer = losses, table, scorer
        self.positions = torch.arange(len(table), device=table.device)[:, None]

    def score(self, candidates: Sequence[Tensor]) -> None:
        """Score `candidates` of one position per group each."""
        worst = torch.finfo(torch.float64).max
        for index, losses in zip(candidates, self.scorer(self.losses, candidates), strict=True):
            # A loss that is no number, as of a scale so small that it overflows, is worse than any other.
            found = losses.double().nan_to_num(nan=worst, posinf=worst)
            self.table.scatter_(0, index[None], found[None])

    def look_between(self) -> bool:
        """Score the middle of each gap beside the best candidates; say whether there was one."""
        middles = []
        known = ~torch.isinf(self.table)
        below = torch.where(known, self.positions, -1).cummax(0).values
        above = torch.where(known, self.positions, len(self.table)).flip(0).cummin(0).values.flip(0)
        for best in self.table.topk(min(BEAM, len(self.table)), dim=0, largest=False).indices:
            lower = below.gather(0, (best - 1).clamp(min=0)[None])[0]
            upper = above.gather(0, (best + 1).clamp(max=len(self.table) - 1)[None])[0]
            for other in (lower, upper):
                middle = torch.div(best + other, 2, rounding_mode="floor")
                inside = (other >= 0) & (other < len(self.table)) & ((best - other).abs() > 1)
                middle = torch.where(inside, middle, best)
                if bool((inside & ~known.gather(0, middle[None])[0]).any()):
                    middles.append(middle)
        self.score(middles)
        return bool(middles)
