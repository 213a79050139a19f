"""
How long a step of quantisation-aware training takes, beside the published formulation of it and beside float training.

That formulation is written out here as the authors' code computes it: elementwise operators recorded by autograd, seven
scales for each quantiser, straight-through differences, and a regulariser that picks the weights of each code by a mask, one
code after another. Both have the same graph around their quantisers; loss and gradients are compared first, and the row says
how close they are. The last row is of the search for the scales that weights start from, in all seven widths as published, and
in the one that is asked for.

    python -m bench.train_step [--threads 1] [--rounds 7]     # writes bench/results/train_step.json
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch
from torch import Tensor, fx, nn

import fxquant
from bench.harness.results import write_results
from bench.harness.timing import measure, summarize
from fxquant.graph.trained import weight_quantizers
from fxquant.models import SReT
from fxquant.numerics.learned_step import MAX_BITS, MIN_BITS, MIN_SCALE, WIDTHS, initial_weight_scales
from fxquant.observers import LearnedStepQuantizer
from fxquant.observers.learned_step import LearnedWeightQuantizer
from fxquant.training.regulariser import variation_regulariser

REGULARISER, LR = 0.01, 1e-6
MODELS: dict[str, Callable[..., nn.Module]] = {
    "deit_tiny_patch16_224": lambda **kwargs: timm.create_model("deit_tiny_patch16_224", **kwargs),
    "swin_tiny_patch4_window7_224": lambda **kwargs: timm.create_model("swin_tiny_patch4_window7_224", **kwargs),
    "sret_tiny": lambda **kwargs: SReT(**kwargs),
}


class PublishedStep(nn.Module):
    """A quantiser with one scale as published; it starts from what `own` has learned for its group `index`."""

    def __init__(self, own: LearnedStepQuantizer, index: int) -> None:
        super().__init__()
        self.signed, self.weight = own.spec.signed, isinstance(own, LearnedWeightQuantizer)
        self.alpha = nn.Parameter(own.scale.detach()[index].repeat(len(WIDTHS)))
        self.beta = None if own.offset is None else nn.Parameter(own.offset.detach()[index].repeat(len(WIDTHS)))
        self.nbits = nn.Parameter(torch.tensor(float(own.spec.bits)), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` rounded."""
        self.nbits.data.clamp_(MIN_BITS, MAX_BITS)
        self.alpha.data.clamp_(min=MIN_SCALE)
        bits = through(self.nbits, self.nbits.round())
        low, high = self.range(bits)
        scale = self.scaled(x, bits, high)
        offset = None if self.beta is None else self.beta[int(bits) - MIN_BITS]
        steps = clip((x if offset is None else x - offset) / scale, low, high)
        rounded = through(steps, steps.round()) * scale
        return rounded if offset is None else rounded + offset

    def range(self, bits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the smallest and largest code."""
        if self.signed:
            return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        return torch.zeros_like(bits), 2**bits - 1

    def scaled(self, x: Tensor, bits: Tensor, high: Tensor, convolution: bool = False) -> Tensor:
        """Return the scale with its gradient scaled."""
        if self.weight and not convolution:
            factor = 1 / torch.sqrt(x.detach().abs().sum() * high)
        else:
            factor = 1 / torch.sqrt(x.numel() * high) if convolution else 1 / (x.numel() ** 0.5 * high)
        scale: Tensor = self.alpha[int(bits) - MIN_BITS]
        return through(scale * factor, scale)

    def regulariser(self, weight: Tensor, convolution: bool) -> Tensor:
        """Return the regulariser of a weight, code by code."""
        low, high = self.range(self.nbits)
        scale = self.scaled(weight, self.nbits, high, convolution)
        clipped = clip(weight / scale, low, high)
        rounded, clipped = (clipped.round() * scale).detach(), clipped * scale
        total, steps = ((rounded - clipped) ** 2).mean(), rounded / scale.detach()
        for code in range(int(low), int(high) + 1):
            members = steps == code
            if members.sum() > 1:
                total = total + clipped[members].var()
        return total


class PublishedGroups(nn.Module):
    """As many `PublishedStep` as there are scales, each for its part of the rows."""

    def __init__(self, own: LearnedStepQuantizer) -> None:
        super().__init__()
        self.parts = nn.ModuleList(PublishedStep(own, index) for index in range(own.scale.numel()))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` rounded."""
        if len(self.parts) == 1:
            rounded: Tensor = self.parts[0](x)
            return rounded
        return torch.cat([part(rows) for part, rows in zip(self.parts, x.chunk(len(self.parts)), strict=True)])

    def regulariser(self, weight: Tensor) -> Tensor:
        """Return the regularisers of all parts."""
        pairs = zip(self.parts, weight.chunk(len(self.parts)), strict=True)
        values: list[Tensor] = [part.regulariser(rows, weight.dim() == 4) for part, rows in pairs]  # type: ignore[operator]
        return torch.stack(values).sum()


def through(x: Tensor, value: Tensor) -> Tensor:
    """Return `value` with the gradient of `x`."""
    return (value - x).detach() + x


def clip(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return `x` within bounds, which get half of the gradient of values on them."""
    return torch.min(torch.max(x, low), high)


def publish(prepared: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of a graph of `fxquant.prepare_qat` whose quantisers are the published ones."""
    graph = copy.deepcopy(prepared)
    for name, module in list(graph.named_modules()):
        if isinstance(module, LearnedStepQuantizer):
            graph.set_submodule(name, PublishedGroups(module))
    return graph


def prepare(model: nn.Module, images: Tensor) -> fx.GraphModule:
    """Return the graph to be trained, W4A4, its scales set by a batch."""
    config = fxquant.recipe("vvtq", 4, 4, real_offset=True)
    prepared = fxquant.prepare_qat(copy.deepcopy(model), config).eval()
    with torch.no_grad():
        prepared(images)
    return prepared


class Training:
    """One model, its optimiser and its loss."""

    def __init__(self, model: nn.Module, penalty: Callable[[], Tensor] | None, images: Tensor, labels: Tensor) -> None:
        self.model, self.penalty, self.images, self.labels = model.train(), penalty, images, labels
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)

    def gradients(self) -> float:
        """Leave the gradients on the parameters and return the loss."""
        self.optimiser.zero_grad()
        loss = -(self.labels * self.model(self.images).log_softmax(1)).sum(1).mean()
        if self.penalty is not None:
            loss = loss + REGULARISER * self.penalty()
        torch.autograd.backward(loss)
        return float(loss.detach())

    def step(self) -> None:
        """Make one step."""
        self.gradients()
        self.optimiser.step()


def published_penalty(prepared: fx.GraphModule, published: fx.GraphModule) -> Callable[[], Tensor]:
    """Return what computes the regulariser of all weights of the published graph."""
    names = {module: name for name, module in prepared.named_modules()}
    weights = {id(parameter): name for name, parameter in prepared.named_parameters()}
    pairs: list[tuple[Any, Tensor]] = [
        (published.get_submodule(names[module]), published.get_parameter(weights[id(weight)]))
        for module, weight in weight_quantizers(prepared)
    ]
    return lambda: torch.stack([module.regulariser(weight) for module, weight in pairs]).sum()


def gradient_pairs(prepared: fx.GraphModule, published: fx.GraphModule) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each gradient of both: those of scales and offsets for the width that is trained."""
    modules = dict(published.named_modules())
    for name, own in prepared.named_modules():
        theirs = modules[name]
        if not isinstance(theirs, PublishedGroups):
            continue
        row = own.spec.bits - MIN_BITS
        for mine, their in (("scale", "alpha"), ("offset", "beta")):
            if getattr(own, mine) is not None:
                parts = [getattr(part, their).grad[row] for part in theirs.parts]
                yield getattr(own, mine).grad, torch.stack(parts)
    learned = dict(published.named_parameters())
    for name, parameter in prepared.named_parameters():
        if name in learned and parameter.grad is not None:
            yield parameter.grad, learned[name].grad  # type: ignore[misc]


def compare(name: str, batch: int, rounds: int, size: int = 224, **arguments: Any) -> dict[str, Any]:
    """Time a step of all, interleaved, from the same state; arguments are the model's."""
    torch.manual_seed(0)
    model = MODELS[name](**arguments).eval()
    images = torch.randn(batch, 3, size, size)
    prepared = prepare(model, images)
    published = publish(prepared)
    labels = torch.randn(batch, prepared(images).shape[1]).softmax(1)
    own = Training(prepared, lambda: variation_regulariser(prepared, published=True), images, labels)
    theirs = Training(published, published_penalty(prepared, published), images, labels)
    losses = own.gradients(), theirs.gradients()
    found, wanted = (
        torch.cat([g.flatten() for g in each]) for each in zip(*gradient_pairs(prepared, published), strict=True)
    )
    competitors = {
        "fxquant": own.step,
        "published": theirs.step,
        "float": Training(model, None, images, labels).step,
    }
    return {
        "model": name,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "loss_difference": abs(losses[0] - losses[1]) / abs(losses[1]),
        "gradient_difference": float((found - wanted).norm() / wanted.norm()),
        "results": summarize(measure(competitors, rounds, name), batch),
    }


def alternate(weight: Tensor, bits: int) -> Tensor:
    """Return the scale with the least squared error as published: a pass over all weights in each turn."""
    high = 2 ** (bits - 1) - 1
    scale: Tensor = weight.abs().max() / high
    before = torch.zeros(())
    while (scale - before).abs() / scale >= 1e-5:
        codes = (weight / scale).clamp(-high - 1, high).round()
        before, scale = scale, (weight * codes).sum() / (codes * codes).sum()
    return scale


def initialise(name: str, **arguments: Any) -> dict[str, Any]:
    """Time once the search for the scales that all weights start from."""
    torch.manual_seed(0)
    prepared = fxquant.prepare_qat(MODELS[name](**arguments).eval(), fxquant.recipe("vvtq", 4, 4))
    rows = [row for module, weight in weight_quantizers(prepared) for row in module.rows(weight.detach())]
    searches: dict[str, Callable[[Tensor], Tensor]] = {
        "fxquant": lambda row: initial_weight_scales(row, (4,)),
        "fxquant_all_widths": initial_weight_scales,
        "published": lambda row: torch.stack([alternate(row, bits) for bits in WIDTHS]),
    }
    seconds, scales = {}, {}
    for each, search in searches.items():
        begun = time.perf_counter()
        scales[each] = torch.stack([search(row) for row in rows])
        seconds[each] = round(time.perf_counter() - begun, 3)
    apart = (scales["fxquant_all_widths"] / scales["published"] - 1).abs().max()
    return {
        "model": name,
        "weights": len(rows),
        "threads": torch.get_num_threads(),
        "initialisation_seconds": seconds,
        "scale_difference": float(apart),
    }


def main() -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["deit_tiny_patch16_224", "sret_tiny"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.models:
        row = compare(name, options.batch, options.rounds)
        rows.append(row)
        own = row["results"]["fxquant"]
        faster = own["times_faster_than"]
        shares = f"{faster['published']} times faster than published, {1 / faster['float']:.2f} times as long as float"
        print(f"{name}: {own['median_ms']} ms per step, {shares}", flush=True)
    row = initialise("sret_tiny")
    rows.append(row)
    print(f"scales of all weights of sret_tiny, seconds: {row['initialisation_seconds']}")
    write_results("train_step", rows, seed=0, bits="W4A4", weights="random")


if __name__ == "__main__":
    main()
