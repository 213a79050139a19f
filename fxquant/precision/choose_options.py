"""Choose how each part is quantised, one step after another, by what a step gains for what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fxquant.errors import ConfigError
from fxquant.precision.part_options import PartOption
from fxquant.precision.parts import ModelPart
from fxquant.precision.precision_budget import Cost, PrecisionBudget

Chosen = dict[ModelPart, PartOption]


@dataclass(frozen=True)
class Offer:
    """energy: what the option adds to ``|y - y_float|^2``; costs: what it costs."""

    energy: float
    costs: Mapping[Cost, float]


def path_of(
    offers: Mapping[ModelPart, Mapping[PartOption, Offer]],
    rest: Mapping[Cost, float],
    budget: PrecisionBudget,
    cost: Cost,
) -> list[Chosen]:
    """
    Return choices of growing cost and falling error, each one step from the one before, all within the limits of `budget`.

    offers: for each part its options, the configured one first. rest: what costs whatever is chosen. Energies of parts are
    added up, as if their errors were independent. The first choice is the configured one; where there is a limit to a cost it
    is the cheapest. Each step is the one that takes away most energy for what it adds to `cost`, as in the greedy solution of
    a knapsack problem.

    Raises `ConfigError` where even the first is beyond a limit.
    """
    bounded = any(limit is not Cost.FLOAT_SHARE for limit in budget.limits)
    chosen: Chosen = {
        part: min(options, key=lambda o: (options[o].costs[cost], options[o].energy))
        if bounded
        else next(iter(options))
        for part, options in offers.items()
    }
    spent = _total(offers, chosen, rest)
    if not budget.affords(spent):
        beyond = ", ".join(
            f"{c.value} {spent[c]:.4g} of {most:.4g}" for c, most in budget.limits.items() if spent[c] > most
        )
        raise ConfigError(f"the cheapest options are beyond the budget: {beyond}; allow more, or fewer bits")
    path = [chosen]
    while (step := _best_step(offers, path[-1], spent, budget, cost)) is not None:
        part, option = step
        path.append(path[-1] | {part: option})
        spent = _total(offers, path[-1], rest)
    return path


def _best_step(
    offers: Mapping[ModelPart, Mapping[PartOption, Offer]],
    chosen: Chosen,
    spent: Mapping[Cost, float],
    budget: PrecisionBudget,
    cost: Cost,
) -> tuple[ModelPart, PartOption] | None:
    best, found = (-1.0, -1.0), None
    for part, options in offers.items():
        now = options[chosen[part]]
        for option, offer in options.items():
            gain, price = now.energy - offer.energy, offer.costs[cost] - now.costs[cost]
            if gain <= 0 or not budget.affords({c: spent[c] + offer.costs[c] - now.costs[c] for c in spent}):
                continue
            value = (float("inf"), gain) if price <= 0 else (gain / price, gain)
            if value > best:
                best, found = value, (part, option)
    return found


def _total(
    offers: Mapping[ModelPart, Mapping[PartOption, Offer]], chosen: Chosen, rest: Mapping[Cost, float]
) -> dict[Cost, float]:
    return costs_of([offers[part][option] for part, option in chosen.items()], rest)


def costs_of(taken: Sequence[Offer], rest: Mapping[Cost, float]) -> dict[Cost, float]:
    """Return what several offers cost together, with the rest."""
    return {cost: rest[cost] + sum(offer.costs[cost] for offer in taken) for cost in Cost}
