"""The state of a synthesis, and one step of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fxquant.errors import CalibrationError
from fxquant.synthesis.image_objective import Jitter, Losses, SynthesisObjective
from fxquant.synthesis.learning_rate import learning_rate
from fxquant.synthesis.synthesis_options import SynthesisOptions


@dataclass(frozen=True, eq=False)
class SynthesisState:
    """
    Everything that the next step depends on. Each step makes a new state, so that an interrupted step leaves the last one
    whole.

    done: the finished images ``(D, 3, H, W)``.
    images: the images being optimised ``(B, 3, H, W)``; the moments are Adam's for their gradient.
    labels: the classes of these images.
    tau: the target of their total variation.
    step: the number of steps that these images have made, over all rounds.
    random: the state of the generator of all random numbers.
    """

    done: Tensor
    images: Tensor
    first_moment: Tensor
    second_moment: Tensor
    labels: Tensor
    tau: float
    step: int
    random: Tensor


def begin(shape: tuple[int, int, int], seed: int, device: torch.device) -> SynthesisState:
    """
    Return the state before any image is begun.

    shape: the shape of one image.
    """
    empty = torch.zeros(0, *shape, device=device)
    random = torch.Generator().manual_seed(seed).get_state()
    return SynthesisState(empty, empty, empty, empty, torch.zeros(0, dtype=torch.long, device=device), 0.0, 0, random)


def begin_batch(state: SynthesisState, count: int, classes: int, options: SynthesisOptions) -> SynthesisState:
    """Return `state` with `count` new images of Gaussian noise, their classes, and their target of total variation."""
    generator = _generator(state.random)
    shape, device = state.done.shape[1:], state.done.device
    images = torch.randn(count, *shape, generator=generator).to(device)
    labels = torch.randint(classes, (count,), generator=generator).to(device)
    low, high = options.tv_target
    tau = low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))
    if not options.published:
        # A norm over the whole batch: it grows with the root of the number of images and of pixels.
        tau *= math.sqrt(count / 32 * shape[0] / 3) * math.sqrt(shape[1] * shape[2]) / 224
    zeros = torch.zeros_like(images)
    return SynthesisState(state.done, images, zeros, zeros, labels, tau, 0, generator.get_state())


def finish_batch(state: SynthesisState) -> SynthesisState:
    """Return `state` with the optimised images added to those that are done."""
    return replace(state, done=torch.cat([state.done, state.images]), images=state.images[:0], step=0)


def advance(
    state: SynthesisState, objective: SynthesisObjective, base_lr: float, bounds: tuple[Tensor, Tensor]
) -> tuple[SynthesisState, Losses]:
    """
    Return the state after one step, and the losses before it.

    Raises `CalibrationError` where the losses are not finite.
    """
    options = objective.options
    turn, iteration = divmod(state.step, options.iterations)
    generator = _generator(state.random)
    jitter = draw_jitter(generator, options.jitter[turn])
    losses, gradient = objective.gradient(state.images, state.labels, state.tau, jitter)
    if not math.isfinite(losses.total):
        raise CalibrationError(
            f"image synthesis diverged: at step {state.step + 1} the loss is {losses.total}; does the model give finite "
            "logits for normal images? A smaller lr, or dtype=torch.float32, may help"
        )
    lr = learning_rate(iteration, base_lr, options.warmup_iterations, options.iterations)
    return replace(step(state, gradient, lr, options, bounds), random=generator.get_state()), losses


def step(
    state: SynthesisState, gradient: Tensor, lr: float, options: SynthesisOptions, bounds: tuple[Tensor, Tensor]
) -> SynthesisState:
    """Return the state after Adam's update with `gradient`; images stay between `bounds`."""
    count = state.step + 1
    beta1, beta2 = options.betas
    first = torch.lerp(state.first_moment, gradient, 1 - beta1)
    second = torch.addcmul(state.second_moment * beta2, gradient, gradient, value=1 - beta2)
    deviation = (second / (1 - beta2**count)).sqrt_().add_(options.eps)
    images = torch.addcdiv(state.images, first, deviation, value=-lr / (1 - beta1**count)).clamp_(*bounds)
    return replace(state, images=images, first_moment=first, second_moment=second, step=count)


def draw_jitter(generator: torch.Generator, limit: int) -> Jitter:
    """Draw an offset of at most `limit` pixels in each direction, and whether to mirror."""
    offset = int(torch.randint(-limit, limit + 1, (), generator=generator))
    return Jitter(offset, bool(torch.rand((), generator=generator) < 0.5))


def _generator(state: Tensor) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(state)
    return generator
