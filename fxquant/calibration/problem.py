"""The error that quantisation makes at the output of one product, as a function of one side's scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fxquant.calibration.gradients import Sensitivity
from fxquant.calibration.grid import Losses
from fxquant.calibration.metrics import directional_loss, elementwise_loss, is_directional
from fxquant.calibration.sides import Groups, Side
from fxquant.config.search import Metric

BLOCK = 2**22  # elements of an output that are compared at a time


@dataclass(eq=False)
class Problem:
    """
    One product ``y = left @ right^T``, and how far its quantised form is from it.

    left has rows ``(E, H, N, K)``, right ``(E, H, M, K)``: E and H are 1 for a linear layer, images and heads in attention.
    bias: ``(M,)`` or None. sensitivity: how much the loss of the task depends on y, for the metrics that need it. images: the
    number of images that the N tokens come from, N / images tokens from each; 0 where only a sample of the tokens takes part.
    centred: leave the mean error of each of the M outputs out of the loss, because the bias will be moved by it. whole: the
    error is the distance from the float product; off, the distance from the product of the float left and the quantised right.
    """

    left: Side
    right: Side
    metric: Metric
    bias: Tensor | None = None
    sensitivity: Sensitivity | None = None
    images: int = 0
    centred: bool = False
    whole: bool = True

    def losses_of(self, side: Side) -> Losses:
        """Return the function from candidates ``(groups,)`` of `side` to losses ``(groups,)``, the other side as it is."""
        if self.metric in (Metric.L2, Metric.FISHER):
            quadratic = self.quadratic(side)
            return lambda index: side.reduce(quadratic(side.candidate(index)))
        return self._compared(side)

    def quadratic(self, side: Side) -> Callable[[Tensor], Tensor]:
        """
        Return the function from quantised rows ``(E, H, R, K)`` of `side` to the squared error ``(E, H, R)`` of their outputs.

        With d the change of a row s and o the other side's rows, the error is ``d o^^T + s (o^ - o)^T``, whose square is
        ``d G d^T + 2 d C + const`` with ``G = o^^T o^`` and ``C = o^^T (o^ - o) s^T``: K numbers for each row instead of one
        for each output. Where the other side has no more than K rows the error itself is cheaper.
        """
        other = self.right if side is self.left else self.left
        rows = side.rows()
        quantized = other.rows() if side.searched_alone else other.quantized()
        change = quantized - other.rows() if self.whole else torch.zeros_like(quantized)
        own_weight, other_weight = self._weights(side)
        # The tokens are the left rows, and their mean is what a bias can undo.
        centre_rows = self.centred and side is self.left
        if self.centred and not centre_rows:
            quantized, change = _centred(quantized, other_weight), _centred(change, other_weight)
        if other_weight is not None:
            root = other_weight.sqrt()[..., None]
            quantized, change = quantized * root, change * root
        if centre_rows:
            rows = _centred(rows, own_weight)
        form = _Form.gram if quantized.shape[-2] > quantized.shape[-1] else _Form.direct
        evaluate = form(quantized, change, rows)
        original = side.rows()

        def losses(candidate: Tensor) -> Tensor:
            delta = candidate - original
            if centre_rows:
                delta = _centred(delta, own_weight)
            error = evaluate(delta)
            return error if own_weight is None else error * own_weight

        return losses

    def left_form(self, max_rows: int) -> LeftForm:
        """Return the squared error of a linear layer's output as a function of the errors of its input, at some of its rows."""
        (part,) = self.left.parts
        step = max(1, -(-len(part.values) // max_rows))
        values, quantized = part.values[::step].float(), self.right.quantized()[0, 0]
        change = quantized - self.right.rows()[0, 0] if self.whole else torch.zeros_like(quantized)
        tokens, channels = (None if w is None else w[0, 0] for w in self._weights(self.left))
        if channels is not None:
            quantized, change = quantized * channels.sqrt()[:, None], change * channels.sqrt()[:, None]
        weight = None if tokens is None else tokens[::step]
        form = LeftForm(values, quantized.T @ quantized, values, weight, self.centred)
        return replace(form, cross=form.errors(values) @ (change.T @ quantized))

    def mean_error(self, noise: Tensor | None = None) -> Tensor:
        """
        Return the mean error ``(M,)`` of each output of a linear layer over its tokens, with `noise` ``(K,)`` as input bias.

        The tokens weigh as they do in the metric.
        """
        (part,) = self.left.parts
        shift = torch.zeros((), device=part.values.device) if noise is None else noise
        quantized = part.quantize(part.qparams, part.values.float() + shift) - shift
        weight, _ = self._weights(self.left)
        share = torch.full_like(quantized[:, 0], 1 / len(quantized)) if weight is None else weight[0, 0] / weight.sum()
        x, x_quantized = share @ self.left.rows()[0, 0], share @ quantized
        return self.right.quantized()[0, 0] @ x_quantized - self.right.rows()[0, 0] @ x

    def _weights(self, side: Side) -> tuple[Tensor | None, Tensor | None]:
        """Return the weights of the rows of `side` and of the other one."""
        if self.metric is not Metric.FISHER:
            return None, None
        if self.sensitivity is None:
            raise RuntimeError("the Fisher metric needs the sensitivity of the loss")
        tokens, channels = self.sensitivity.tokens, self.sensitivity.channels
        return (tokens, channels) if side is self.left else (channels, tokens)

    def _compared(self, side: Side) -> Losses:
        """Compare outputs element by element, or direction by direction."""
        opposite = self.right if side is self.left else self.left
        other = opposite.rows() if side.searched_alone else opposite.quantized()
        gradient = None if self.sensitivity is None else self.sensitivity.elements
        reference = self._output(self.left.rows(), self.right.rows() if self.whole else self.right.quantized())

        def losses(index: Tensor) -> Tensor:
            candidate = side.candidate(index)
            pair = (candidate, other) if side is self.left else (other, candidate)
            approximation = self._output(*pair)
            if is_directional(self.metric):
                return self._directional(side, reference, approximation)
            error = elementwise_loss(self.metric, reference, approximation, gradient)
            return side.reduce(error.sum(-1 if side is self.left else -2))

        return losses

    def _output(self, left: Tensor, right: Tensor) -> Tensor:
        y = left @ right.mT
        return y if self.bias is None else y + self.bias

    def _directional(self, side: Side, y: Tensor, approximation: Tensor) -> Tensor:
        """
        Compare along the features of a token; where each feature is a group of its own, along the tokens of an image.

        The loss of the left side, and of a right one in one group or one per head, is that of whole tokens.
        """
        parts = side.parts
        if side is self.left or parts[0].grouping is not Groups.ROWS:
            per_token = directional_loss(self.metric, y, approximation, -1)  # (E, H, N)
            if side is self.left:
                return side.reduce(per_token)
            if parts[0].grouping is Groups.HEADS:
                return per_token.sum((0, 2))
            return per_token.sum().reshape(1).expand(side.groups)
        losses, start = [], 0
        for part in parts:
            stop = start + part.values.shape[0]
            one, two = (t[0, 0, :, start:stop].reshape(t.shape[2], part.groups, -1) for t in (y, approximation))
            if one.shape[-1] == 1:
                images = self.images or 1
                one, two = (t.reshape(images, -1, part.groups).mT for t in (one, two))
            losses.append(directional_loss(self.metric, one, two, -1).sum(0))
            start = stop
        return torch.cat(losses)


@dataclass(frozen=True, eq=False)
class LeftForm:
    """
    The squared error of a linear layer's output, written as ``e G e^T + 2 e C + const`` for errors e of its input.

    values: the T input rows, ``(T, K)``. gram: G, ``(K, K)``. cross: C, ``(T, K)``. weight: how much each row counts, ``(T,)``,
    None for all alike. centred: as in `Problem`. e ``(T, K)`` has to go through `errors` first.
    """

    values: Tensor
    gram: Tensor
    cross: Tensor
    weight: Tensor | None
    centred: bool

    def errors(self, errors: Tensor) -> Tensor:
        """Return errors ``(T, ...)`` less what a bias takes up, weighted by how much their tokens count."""
        if self.centred:
            errors = _centred(errors[None, None], None if self.weight is None else self.weight[None, None])[0, 0]
        return errors if self.weight is None else errors * self.weight.sqrt()[:, None]


class _Form:
    """The two ways to the squared error ``(E, H, R)`` of rows that change by ``d`` ``(E, H, R, K)``."""

    @staticmethod
    def direct(other: Tensor, change: Tensor, rows: Tensor) -> Callable[[Tensor], Tensor]:
        """Compute the error of each output and sum its squares."""
        fixed = rows @ change.mT

        def evaluate(delta: Tensor) -> Tensor:
            size = max(1, BLOCK // max(1, fixed.shape[-1] * fixed.shape[0] * fixed.shape[1]))
            parts = zip(delta.split(size, 2), fixed.split(size, 2), strict=True)
            return torch.cat([(d @ other.mT).add_(f).square_().sum(-1) for d, f in parts], 2)

        return evaluate

    @staticmethod
    def gram(other: Tensor, change: Tensor, rows: Tensor) -> Callable[[Tensor], Tensor]:
        """Use the Gram matrix of the other side."""
        gram = other.mT @ other
        cross = rows @ (change.mT @ other)
        constant = ((rows @ (change.mT @ change)) * rows).sum(-1)

        def evaluate(delta: Tensor) -> Tensor:
            return (delta @ gram).add_(cross, alpha=2).mul_(delta).sum(-1).add_(constant)

        return evaluate


def _centred(rows: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return rows ``(E, H, R, K)`` without their mean, weighted by ``(E, H, R)``."""
    if weight is None:
        return rows - rows.mean(-2, keepdim=True)
    share = (weight / weight.sum(-1, keepdim=True))[..., None]
    return rows - (rows * share).sum(-2, keepdim=True)
