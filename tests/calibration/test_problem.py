"""The loss of a candidate is the error that it makes, whichever of the short cuts computes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant import Metric, PerChannel, PerHead, PerTensor, RowGroups, TensorSpec
from fxquant.calibration.gradients import Sensitivity
from fxquant.calibration.problem import Problem
from fxquant.calibration.sides import Part, Side
from fxquant.numerics.granularity import Granularity
from tests.support.published import observer_of, table_of

WHOLE = PerTensor()
MULTIPLIERS = tuple(0.2 + 0.1 * i for i in range(11))
# Tokens, inputs and outputs for which either side's quadratic form is computed directly, and by its Gram matrix.
SHAPES = {"direct": (5, 16, 8), "gram": (40, 6, 30)}
ELEMENTWISE: dict[Metric, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    Metric.L1: lambda y, z, g: (y - z).abs(),
    Metric.L2: lambda y, z, g: (y - z) ** 2,
    Metric.LINEAR_WEIGHTED_L2: lambda y, z, g: y.abs() * (y - z) ** 2,
    Metric.SQUARE_WEIGHTED_L2: lambda y, z, g: (y * (y - z)) ** 2,
    Metric.HESSIAN: lambda y, z, g: (g * (y - z)) ** 2,
}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def part(values: Tensor, granularity: Granularity = WHOLE, weight: bool = False) -> Part:
    spec = TensorSpec(4, signed=True, symmetric=True, granularity=granularity)
    return Part.of(observer_of(spec, values, weight), values, MULTIPLIERS)


def linear(shape: tuple[int, int, int], rows: Granularity = WHOLE, **options: Any) -> Problem:
    """Return a problem of a linear layer whose scales are not the initial ones any more."""
    tokens, inputs, outputs = shape
    given: dict[str, Any] = {"metric": Metric.L2, "bias": drawn(outputs, seed=3)} | options
    left, right = (
        Side([part(drawn(tokens, inputs))]),
        Side([part(drawn(outputs, inputs, seed=1), rows, True)], weight=True),
    )
    if given["metric"] in (Metric.FISHER, Metric.HESSIAN):
        given["sensitivity"] = Sensitivity.of(drawn(1, 1, tokens, outputs, seed=2))
    problem = Problem(left, right, **given)
    for side in (left, right):
        side.choose(torch.full((side.groups,), 6))
    return problem


def attention(metric: Metric = Metric.L2) -> Problem:
    """Return a problem of a product ``(E, H, N, K) @ (E, H, K, M)`` with a scale per head."""
    left = Side([part(drawn(3, 2, 7, 6), PerHead())])
    right = Side([part(drawn(3, 2, 6, 9, seed=1), PerHead())], transposed=True)
    problem = Problem(left, right, metric, sensitivity=Sensitivity.of(drawn(3, 2, 7, 9, seed=2)))
    right.choose(torch.tensor([6, 3]))
    left.choose(torch.tensor([4, 7]))
    return problem


def outputs_of(problem: Problem, side: Side, candidate: Tensor) -> tuple[Tensor, Tensor]:
    """Return the float output and the one with `candidate` on one side, the slow way in float64."""
    left, right = problem.left, problem.right
    own = (candidate, right.quantized()) if side is left else (left.quantized(), candidate)
    reference = right.rows() if problem.whole or side is right else right.quantized()
    float_left = left.rows() if problem.whole or side is left else left.quantized()
    bias = 0.0 if problem.bias is None else problem.bias.double()
    y = float_left.double() @ reference.double().mT + bias
    return y, own[0].double() @ own[1].double().mT + bias


def weights_of(problem: Problem) -> tuple[Tensor, Tensor]:
    """Return what each token and each channel counts."""
    if problem.metric is not Metric.FISHER:
        return torch.ones(1, 1, 1, dtype=torch.float64), torch.ones(1, 1, 1, dtype=torch.float64)
    assert problem.sensitivity is not None
    assert problem.sensitivity.elements is not None
    squared = problem.sensitivity.elements.double() ** 2
    tokens, channels = squared.mean(-1), squared.mean(-2)
    return tokens / tokens.mean(), channels / channels.mean()


@each_shape
@pytest.mark.parametrize("metric", [Metric.L2, Metric.FISHER])
@pytest.mark.parametrize("centred", [False, True], ids=["", "centred"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "part"])
@pytest.mark.parametrize("name", ["left", "right"])
def test_quadratic_form(shape: tuple[int, int, int], metric: Metric, centred: bool, whole: bool, name: str) -> None:
    problem = linear(shape, metric=metric, centred=centred, whole=whole)
    side: Side = getattr(problem, name)
    candidate = side.candidate(torch.full((side.groups,), 3))
    y, approximation = outputs_of(problem, side, candidate)
    tokens, channels = weights_of(problem)
    error = approximation - y
    if centred:
        error = error - (error * tokens[..., None]).mean(-2, keepdim=True) / tokens[..., None].mean()
    squared = error**2 * tokens[..., None] * channels[..., None, :]
    expected = squared.sum(-1 if name == "left" else -2)
    torch.testing.assert_close(problem.quadratic(side)(candidate).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("metric", [Metric.L2, Metric.FISHER])
@pytest.mark.parametrize("name", ["left", "right"])
def test_quadratic_form_of_attention(metric: Metric, name: str) -> None:
    problem = attention(metric)
    side: Side = getattr(problem, name)
    candidate = side.candidate(torch.tensor([2, 5]))
    y, approximation = outputs_of(problem, side, candidate)
    if metric is Metric.FISHER:
        tokens, channels = weights_of(problem)
        squared = (y - approximation) ** 2 * tokens[..., None] * channels[..., None, :]
    else:
        squared = (y - approximation) ** 2
    expected = squared.sum(-1 if name == "left" else -2)
    torch.testing.assert_close(problem.quadratic(side)(candidate).double(), expected, rtol=1e-4, atol=1e-4)


@each_shape
@pytest.mark.parametrize("metric", ELEMENTWISE)
@pytest.mark.parametrize("rows", [PerTensor(), RowGroups(2), PerChannel(0)], ids=repr)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "part"])
def test_elementwise_metrics(shape: tuple[int, int, int], metric: Metric, rows: Granularity, whole: bool) -> None:
    problem = linear(shape, rows, metric=metric, whole=whole)
    if not whole:
        problem.right.choose(torch.full((problem.right.groups,), 6))
    for side in (problem.left, problem.right) if whole else (problem.left,):
        index = torch.arange(side.groups) % side.steps
        y, approximation = outputs_of(problem, side, side.candidate(index))
        gradient = problem.sensitivity.elements if problem.sensitivity else None
        losses = ELEMENTWISE[metric](y, approximation, torch.zeros(()) if gradient is None else gradient.double())[0, 0]
        expected = losses.reshape(len(losses), side.groups, -1).sum((0, 2))
        found = problem.losses_of(side)(index)
        assert found.dtype is torch.float64
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("metric", ELEMENTWISE)
def test_elementwise_metrics_of_heads(metric: Metric) -> None:
    problem = attention(metric)
    assert problem.sensitivity is not None
    assert problem.sensitivity.elements is not None
    for side in (problem.left, problem.right):
        index = torch.tensor([2, 5])
        y, approximation = outputs_of(problem, side, side.candidate(index))
        expected = ELEMENTWISE[metric](y, approximation, problem.sensitivity.elements.double()).sum((0, 2, 3))
        torch.testing.assert_close(problem.losses_of(side)(index), expected, rtol=1e-4, atol=1e-4)


def similarity(metric: Metric, y: Tensor, approximation: Tensor) -> Tensor:
    if metric is Metric.PEARSON:
        y, approximation = y - y.mean(-1, keepdim=True), approximation - approximation.mean(-1, keepdim=True)
    return F.cosine_similarity(y, approximation, dim=-1)


each_direction = pytest.mark.parametrize("metric", [Metric.COSINE, Metric.PEARSON])


@each_direction
@pytest.mark.parametrize("rows", [PerTensor(), RowGroups(2)], ids=repr)
def test_directions_are_those_of_a_token_in_a_block(metric: Metric, rows: Granularity) -> None:
    problem = linear(SHAPES["gram"], rows, metric=metric)
    for side in (problem.left, problem.right):
        index = torch.arange(side.groups) + 2
        y, approximation = (t[0, 0] for t in outputs_of(problem, side, side.candidate(index)))
        one, two = (t.reshape(len(t), side.groups, -1) for t in (y, approximation))
        expected = -similarity(metric, one, two).sum(0)
        torch.testing.assert_close(problem.losses_of(side)(index).double(), expected, rtol=1e-4, atol=1e-4)


@each_direction
@pytest.mark.parametrize("images", [4, 0])
def test_directions_of_a_channel_are_those_of_its_pixels(metric: Metric, images: int) -> None:
    problem = linear(SHAPES["gram"], PerChannel(0), metric=metric, images=images)
    side = problem.right
    index = torch.arange(side.groups) % side.steps
    y, approximation = (t[0, 0] for t in outputs_of(problem, side, side.candidate(index)))
    one, two = (t.T.reshape(side.groups, max(1, images), -1) for t in (y, approximation))
    expected = -similarity(metric, one, two).sum(1)
    torch.testing.assert_close(problem.losses_of(side)(index).double(), expected, rtol=1e-4, atol=1e-4)


@each_direction
def test_directions_of_heads_are_those_of_their_tokens(metric: Metric) -> None:
    problem = attention(metric)
    for side in (problem.left, problem.right):
        index = torch.tensor([2, 5])
        y, approximation = outputs_of(problem, side, side.candidate(index))
        expected = -similarity(metric, y, approximation).sum((0, 2))
        torch.testing.assert_close(problem.losses_of(side)(index).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("metric", Metric)
def test_stacked_weights_are_searched_as_if_alone(metric: Metric) -> None:
    """Layers that read one input choose their own scales; what they share is the input's."""
    tokens, inputs = 20, 8
    weights: list[tuple[Tensor, Granularity]] = [
        (drawn(6, inputs, seed=4), PerChannel(0)),
        (drawn(10, inputs, seed=5), RowGroups(2)),
    ]
    left, gradient = part(drawn(tokens, inputs)), drawn(1, 1, tokens, 16, seed=6)
    right = Side([part(w, rows, True) for w, rows in weights], weight=True)
    joint = Problem(Side([left]), right, metric, torch.zeros(16), Sensitivity.of(gradient))
    assert right.groups == 8
    table = table_of(joint, right)
    for number, own in enumerate((slice(0, 6), slice(6, 16))):
        groups = slice(0, 6) if number == 0 else slice(6, 8)
        alone = Problem(
            Side([left]), Side([right.parts[number]], weight=True), metric, torch.zeros(own.stop - own.start)
        )
        alone.sensitivity = Sensitivity.of(gradient[..., own])
        if metric is not Metric.FISHER:  # whose weights are a share of all channels
            torch.testing.assert_close(table[:, groups], table_of(alone, alone.right), rtol=1e-4, atol=1e-4)
    right.choose(torch.arange(8))
    torch.testing.assert_close(
        right.parts[0].qparams.scale, right.parts[0].initial.scale * torch.tensor(MULTIPLIERS[:6])
    )
    torch.testing.assert_close(
        right.parts[1].qparams.scale, right.parts[1].initial.scale * torch.tensor(MULTIPLIERS[6:8])
    )
    assert right.quantized().shape == (1, 1, 16, inputs)
    if metric in ELEMENTWISE:
        # What the input's candidates cost is the sum over both layers.
        costs = []
        for own in (slice(0, 6), slice(6, 16)):
            only = Side([right.parts[0 if own.start == 0 else 1]], weight=True)
            bias, sensitivity = torch.zeros(own.stop - own.start), Sensitivity.of(gradient[..., own])
            costs.append(table_of(Problem(joint.left, only, metric, bias, sensitivity), joint.left))
        torch.testing.assert_close(table_of(joint, joint.left), costs[0] + costs[1], rtol=1e-4, atol=1e-4)


@each_shape
@pytest.mark.parametrize("metric", [Metric.L2, Metric.FISHER, Metric.COSINE])
def test_mean_error(shape: tuple[int, int, int], metric: Metric) -> None:
    problem = linear(shape, metric=metric)
    shift = drawn(shape[1], seed=7) * 0.1
    (own,) = problem.left.parts
    for noise in (None, shift):
        offset = torch.zeros(()) if noise is None else noise
        x = own.quantize(own.qparams, own.values + offset) - offset
        weights = weights_of(problem)[0][0, 0][:, None]
        y, approximation = problem.left.rows() @ problem.right.rows().mT, x @ problem.right.quantized()[0, 0].T
        expected = ((approximation - y[0, 0]).double() * weights).mean(0) / weights.mean()
        torch.testing.assert_close(problem.mean_error(noise).double(), expected, rtol=1e-3, atol=1e-4)


def test_a_gradient_that_is_zero_weighs_nothing() -> None:
    sensitivity = Sensitivity.of(torch.zeros(1, 1, 5, 4))
    assert torch.equal(sensitivity.tokens, torch.ones(1, 1, 5))
    assert torch.equal(sensitivity.channels, torch.ones(1, 1, 4))


def test_a_missing_gradient_is_noticed() -> None:
    for metric in (Metric.FISHER, Metric.HESSIAN):
        problem = linear(SHAPES["gram"])
        problem.metric = metric
        with pytest.raises(RuntimeError, match="of the loss"):
            problem.losses_of(problem.left)(torch.zeros(1, dtype=torch.int64))
