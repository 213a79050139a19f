"""Search the noisy bias of one linear layer (NoisyQuant, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.calibration.grid import Scorer, evenly_spaced, minimise, score_here
from fxquant.calibration.problem import Problem
from fxquant.calibration.sides import Part
from fxquant.config.search import Noise, NoisyBias

SHIFTS = 16  # candidates of a channel's own shift, over one step of the quantiser
FIT_ROWS = 4096  # tokens by which a channel's own shift is chosen
FIT_BLOCK = 64  # channels between which the slope is brought up to date as a whole


def search_noise(
    problem: Problem, options: NoisyBias, generator: torch.Generator, scorer: Scorer = score_here
) -> Tensor:
    """
    Return the bias N ``(K,)`` for which quantising the left rows x as ``Q(x + N) - N`` disturbs the output least.

    The squared error is that of Theorem 1 in the paper, measured. The scales stay as they are; a drawn noise comes from
    `generator`, which lives on the CPU so that devices agree.
    """
    (part,) = problem.left.parts
    shifted = _Shifted(part)
    error = problem.quadratic(problem.left)

    def loss(noise: Tensor) -> Tensor:
        return error(shifted(noise)[None, None]).sum(dtype=torch.float64).reshape(1)

    def best_on_line(start: Tensor, direction: Tensor, factors: Tensor) -> Tensor:
        first = evenly_spaced(len(factors)) if options.coarse else range(len(factors))
        found = minimise(lambda i: loss(start + direction * factors[i[0]]), 1, len(factors), first, start, scorer)
        point = start + direction * factors[found[0]]
        return point if bool(loss(point) < loss(start)) else start

    device, channels = part.values.device, part.values.shape[-1]
    noise = torch.zeros(channels, device=device)
    if options.noise is Noise.FITTED:
        fitted = _fit_channels(problem, shifted)
        noise = fitted if bool(loss(fitted) < loss(noise)) else noise
    if options.mean:
        count = options.mean_steps
        factors = torch.arange(-count, count, device=device) / count
        noise = best_on_line(noise, shifted.step.expand(channels), factors)
    if draws(options):
        count = options.range_steps
        drawn = draw(options.noise, channels, generator).to(device) * shifted.step
        noise = best_on_line(noise, drawn, torch.arange(2 * count, device=device) / count)
    return noise


def draws(options: NoisyBias) -> bool:
    """Say whether `search_noise` draws from its generator, once."""
    return options.range and options.noise is not Noise.FITTED


def draw(noise: Noise, channels: int, generator: torch.Generator) -> Tensor:
    """Return one number per channel, in units of the scale: uniform on [-1, 1], or ``2 n - 1`` as in the published code."""
    if noise is Noise.UNIFORM:
        return torch.rand(channels, generator=generator) * 2 - 1
    return torch.randn(channels, generator=generator) * 2 - 1


class _Shifted:
    """The input of a layer, quantised with some bias added before and taken off again."""

    def __init__(self, part: Part) -> None:
        self.part, self.values = part, part.values.float()
        if part.observer is None:
            raise RuntimeError("a noisy bias is searched for an operand that is quantised")
        self.step = part.observer.step(part.qparams)

    def __call__(self, noise: Tensor) -> Tensor:
        return self.at(self.values, noise)

    def at(self, values: Tensor, noise: Tensor) -> Tensor:
        """Return any `values` quantised with `noise` added before and taken off again."""
        return self.part.quantize(self.part.qparams, values + noise) - noise


def _fit_channels(problem: Problem, shifted: _Shifted) -> Tensor:
    """
    Return shifts ``(K,)`` of the channels, each within half a step, that leave little error at the output.

    One channel after another takes its best shift, the others as they are by then. With e the errors ``(T, K)`` of the input,
    the squared error of the output is ``e G e^T + 2 e C + const``, so that a change d of one channel's errors ``(T,)`` costs
    ``2 d (e G + C)_k + G_kk d^2``; e G is brought up to date one block of channels at a time, as GPTQ does.
    """
    form = problem.left_form(FIT_ROWS)
    x, gram = form.values, form.gram
    noise = torch.zeros(x.shape[1], device=x.device)
    error = form.errors(shifted.at(x, noise) - x)
    slope = error @ gram + form.cross
    shifts = (torch.arange(SHIFTS, device=x.device) / SHIFTS - 0.5)[:, None] * shifted.step
    for start in range(0, len(noise), FIT_BLOCK):
        block = slice(start, start + FIT_BLOCK)
        before, own, near = error[:, block].clone(), slope[:, block].clone(), gram[block, block]
        for k in range(before.shape[1]):
            values = x[:, start + k]
            change = form.errors((shifted.at(values, shifts) - values).T) - error[:, start + k, None]  # (T, SHIFTS)
            cost = 2 * (own[:, k] @ change) + near[k, k] * change.square().sum(0)
            best = cost.argmin()
            if bool(cost[best] < 0):
                noise[start + k] = shifts[best, 0]
                error[:, start + k] += change[:, best]
                own += change[:, best, None] * near[k]
        slope += (error[:, block] - before) @ gram[block]
    return noise
