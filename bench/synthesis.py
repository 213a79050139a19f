"""
How long a step of image synthesis takes, beside the published formulation of the same loss.

That formulation is written out here as the authors' code computes it: attention opened, cosine similarities of all pairs by
broadcasting, one kernel per grid point, everything kept for plain autograd, gradients of the weights computed and not used.
Both give the same loss and the same gradient of the images, and the row says how close. What a whole synthesis takes is
projected from a few steps at full size.

    python -m bench.synthesis [--threads 1] [--full-threads 2]     # writes bench/results/synthesis.json
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.harness.results import write_results
from bench.harness.timing import measure, summarize
from fxquant.synthesis import SynthesisOptions
from fxquant.synthesis.image_objective import Jitter, SynthesisObjective
from fxquant.synthesis.losses import total_variation
from fxquant.synthesis.optimisation import SynthesisState, advance, begin, begin_batch, step
from fxquant.synthesis.synthesis_model import SynthesisModel, read_subject

OPTIONS = SynthesisOptions(published=True)
CPU = torch.device("cpu")
LR = 0.2


@dataclass(frozen=True, eq=False)
class PublishedSynthesis:
    """A step with the loss as published. subject: of a model whose attention is not fused, its weights asking for gradients."""

    subject: SynthesisModel

    def gradient(self, images: Tensor, labels: Tensor, tau: float, jitter: Jitter) -> tuple[float, Tensor]:
        """Return the loss and the gradient of the images; those of the weights are left on them."""
        graph = self.subject.contexts
        graph.gm.zero_grad()
        images = images.detach().requires_grad_()
        seen = jitter(images)
        logits, *contexts = graph.gm(seen)
        entropy = torch.stack([self._entropy(c, len(images)) for c in contexts]).sum()
        distance = (total_variation(seen) - tau).abs()
        loss = -entropy + OPTIONS.ce_weight * F.cross_entropy(logits, labels) + OPTIONS.tv_weight * distance
        loss.backward()
        if images.grad is None:
            raise RuntimeError("the loss does not depend on the images")
        return float(loss.detach()), images.grad

    def advance(self, state: SynthesisState) -> SynthesisState:
        """Return the state after one step."""
        _, gradient = self.gradient(state.images, state.labels, state.tau, Jitter(3, True))
        return step(state, gradient, LR, OPTIONS, self.subject.bounds(CPU))

    def _entropy(self, context: Tensor, images: int) -> Tensor:
        tokens = context.mean(1)[:, 1:]
        similarity = F.cosine_similarity(tokens.unsqueeze(1), tokens.unsqueeze(2), dim=-1, eps=1e-8)
        samples, h = similarity.reshape(images, -1), OPTIONS.bandwidth
        grid = torch.linspace(float(samples.detach().min()), float(samples.detach().max()), OPTIONS.grid_size)
        kernels = [torch.exp(-((g - samples) ** 2) / (2 * h * h)) / math.sqrt(2 * math.pi * h * h) for g in grid]
        density = torch.stack([kernel.mean(1) for kernel in kernels], 1) + 1e-4
        return torch.trapezoid(-density * density.log(), grid, dim=1).mean()


def build(name: str, batch: int, fused: bool, **arguments: Any) -> SynthesisModel:
    """Return a timm model of random weights, ready for `batch` images together; arguments are timm's."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, **arguments).eval()
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused  # type: ignore[assignment]
    return read_subject(model, batch, arguments.get("img_size"), OPTIONS)


def start(subject: SynthesisModel, batch: int) -> SynthesisState:
    """Return the state of `batch` images before their first step."""
    return begin_batch(begin(subject.shape, 0, CPU), batch, subject.contexts.classes, OPTIONS)


def compare(name: str, batch: int, rounds: int, **arguments: Any) -> dict[str, Any]:
    """Time a step of both, interleaved, from the same state; arguments are timm's."""
    ours, theirs = (build(name, batch, fused, **arguments) for fused in (True, False))
    theirs.contexts.gm.requires_grad_(True)
    objective, published = SynthesisObjective(ours.contexts, OPTIONS, torch.float32), PublishedSynthesis(theirs)
    state, bounds = start(ours, batch), ours.bounds(CPU)
    jitter = Jitter(3, True)
    losses, found = objective.gradient(state.images, state.labels, state.tau, jitter)
    loss, wanted = published.gradient(state.images, state.labels, state.tau, jitter)
    competitors = {
        "fxquant": lambda: advance(state, objective, LR, bounds),
        "published": lambda: published.advance(state),
    }
    return {
        "model": name,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "loss_difference": abs(losses.total - loss) / abs(loss),
        "gradient_difference": float((found - wanted).norm() / wanted.norm()),
        "results": summarize(measure(competitors, rounds, name), batch),
    }


def project(name: str, images: int, steps: int, **arguments: Any) -> dict[str, Any]:
    """Time `steps` steps of `images` together, after one that is not counted, and project them to all of a synthesis."""
    subject = build(name, images, True, **arguments)
    objective, bounds = SynthesisObjective(subject.contexts, OPTIONS, torch.float32), subject.bounds(CPU)
    state, seconds = start(subject, images), list[float]()
    for _ in range(steps + 1):
        begun = time.perf_counter()
        state, _ = advance(state, objective, LR, bounds)
        seconds.append(time.perf_counter() - begun)
    median = statistics.median(seconds[1:])
    return {
        "model": name,
        "batch": images,
        "threads": torch.get_num_threads(),
        "steps_timed": steps,
        "seconds_per_step": round(median, 3),
        "steps": OPTIONS.steps,
        "projected_hours": round(median * OPTIONS.steps / 3600, 3),
    }


def main() -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--full", type=int, default=32, help="images of the projected synthesis")
    parser.add_argument("--full-steps", type=int, default=4)
    parser.add_argument("--full-threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    row = compare(options.model, options.batch, options.rounds, img_size=options.img_size)
    results = row["results"]
    faster = results["fxquant"]["times_faster_than"]["published"]
    print(
        f"{options.model}: {results['fxquant']['median_ms']} ms per step, {faster} times faster than published",
        flush=True,
    )
    torch.set_num_threads(options.full_threads)
    full = project(options.model, options.full, options.full_steps, img_size=options.img_size)
    print(f"{options.full} images: {full['seconds_per_step']} s per step, {full['projected_hours']} hours in all")
    write_results("synthesis", [row, full], seed=0, iterations=OPTIONS.iterations, weights="random")


if __name__ == "__main__":
    main()
