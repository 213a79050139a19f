"""Searches of single layers choose what the published code of PTQ4ViT chose, for the reasons that it had."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fxquant import TwinSoftmax
from fxquant.calibration.scales import search_scales
from fxquant.calibration.sides import Part, Side
from tests.support.published import Case, cases, interval, table_of

each_case = pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
TIE = 1e-4  # of a column's range: two candidates so close may change places


def scores(case: Case, suffix: str) -> Tensor:
    """Return the recorded scores as ``(rounds, steps, groups)``; larger is better. Of a convolution one round is recorded."""
    table = case[f"scores_{suffix}"]
    if case.layer == "conv":
        return table.reshape(1, len(table), -1).expand(case.rounds, -1, -1)
    return table.reshape(*table.shape[:2], -1)


def intervals(part: Part) -> Tensor:
    """Return what each candidate stands for, ``(steps, groups)``."""
    assert part.observer is not None
    spec = part.observer.spec
    every = [part.candidate(torch.full((part.groups,), i)) for i in range(part.steps)]
    return torch.stack([interval(qparams, spec) for qparams in every])


def normalised(table: Tensor) -> Tensor:
    """Return a table whose columns go from 0 to 1, as neither the sum's sign nor its unit matters."""
    low, high = table.amin(0), table.amax(0)
    return (table - low) / (high - low)


def assert_same_choice(table: Tensor, found: Tensor, expected: Tensor) -> None:
    """Check candidates ``(groups,)``: those that differ are as good as each other in the table."""
    gap = (normalised(table).gather(0, found[None]) - normalised(table).gather(0, expected[None])).abs()
    assert bool((gap < TIE).all()), f"chose {found.tolist()}, published {expected.tolist()}: {gap.tolist()}"


@each_case
def test_scores_choices_and_outputs(case: Case) -> None:
    problem, sides = case.problem()
    for round_ in range(case.rounds):
        for suffix, side in sides:
            published = scores(case, suffix)[round_].double()
            found = table_of(problem, side)
            torch.testing.assert_close(normalised(-found), normalised(published), rtol=0, atol=5e-4)
            chosen = published.argmax(0)
            assert_same_choice(published, found.argmin(0), chosen)
            # What the published code chose, so that a tie does not change what follows.
            side.choose(chosen)
    for suffix, side in sides:
        (part,) = side.parts
        assert part.observer is not None
        found = interval(part.qparams, part.observer.spec)
        torch.testing.assert_close(found, case[f"{suffix}_interval"].reshape(-1), rtol=1e-5, atol=0)
        if isinstance(part.observer.spec, TwinSoftmax):
            assert torch.equal(part.qparams.split, case["split"])
    if case.has("a_neg_interval"):
        torch.testing.assert_close(problem.left.parts[0].qparams.low, case["a_neg_interval"], rtol=1e-5, atol=0)
    assert problem.bias is not None or case.layer in ("qk", "attnv")
    left, right, expected = problem.left.quantized(), problem.right.quantized(), case["sim_out"]
    y = left @ right.mT + (0 if problem.bias is None else problem.bias)
    if case.layer == "conv":
        expected = expected.movedim(1, -1)
    y = y[:1] if case.layer in ("qk", "attnv") else y[0, 0, : expected.shape[:-1].numel()].reshape(expected.shape)
    assert (y - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("case", [case for case in cases() if case.bits == 6], ids=lambda case: case.name)
def test_the_search_ends_where_the_published_one_does(case: Case) -> None:
    problem, sides = case.problem()
    rounds = search_scales(problem, [side for _, side in sides], case.rounds, coarse=False)
    assert 1 <= rounds <= case.rounds
    for suffix, side in sides:
        candidates = intervals(side.parts[0])
        found, published = (nearest(candidates, value) for value in (own(side), case[f"{suffix}_interval"]))
        assert_same_choice(scores(case, suffix)[-1].double(), found, published)


def own(side: Side) -> Tensor:
    (part,) = side.parts
    assert part.observer is not None
    return interval(part.qparams, part.observer.spec)


def nearest(candidates: Tensor, value: Tensor) -> Tensor:
    """Return the index of the candidate that `value` ``(groups,)`` is."""
    found = (candidates - value.reshape(-1)).abs().argmin(0)
    torch.testing.assert_close(candidates.gather(0, found[None])[0], value.reshape(-1), rtol=1e-5, atol=0)
    return found


@pytest.mark.parametrize("name", ["linear/uniform", "qkv/uniform", "postgelu/twin", "qk/uniform", "conv/channelwise"])
def test_the_coarse_search_comes_close(name: str) -> None:
    case = Case(f"{name}/w6a6/L2_norm/ptq4vit")
    losses = []
    for coarse in (False, True):
        problem, sides = case.problem()
        search_scales(problem, [side for _, side in sides], case.rounds, coarse)
        error = problem.quadratic(problem.left)(problem.left.quantized())
        losses.append(float(error.sum()))
    assert losses[0] * 0.999 <= losses[1] <= 1.25 * losses[0]  # few weights per scale make jagged losses
