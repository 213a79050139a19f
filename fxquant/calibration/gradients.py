"""Gradients of a loss at the outputs of products, for the metrics that weigh errors by them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.calibration.batch import Inputs
from fxquant.calibration.held_values import size_of
from fxquant.calibration.sample import Sample
from fxquant.calibration.sites import Site
from fxquant.config.search import Gradient, Metric
from fxquant.errors import CalibrationError
from fxquant.graph.inputs import batch_size, has_batch
from fxquant.graph.meta import any_value_of, known_value
from fxquant.observers.base import Observer
from fxquant.observers.input_recorder import InputRecorder
from fxquant.ops.make_output import output_leaves


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """
    How much the loss depends on each element of an output.

    elements: the gradient g of the loss, ``(E, H, N, M)``, or None. tokens: the mean of g^2 for each token, ``(E, H, N)``.
    channels: the same for each channel, ``(E, H, M)``. Both are scaled to a mean of 1. Their outer product stands for g^2, and
    is equal to it up to a factor where g^2 is a product of one number per token and one per channel.
    """

    tokens: Tensor
    channels: Tensor
    elements: Tensor | None = None

    @classmethod
    def of(cls, gradient: Tensor) -> Sensitivity:
        """Keep the gradient ``(E, H, N, M)`` and its marginals."""
        squared = gradient.double().square()
        return cls(_normalised(squared.mean(-1)), _normalised(squared.mean(-2)), gradient)


class Gradients:
    """
    The sensitivity at each site, computed when it is asked for.

    samples: the sites, in the order in which they will be asked for, each with the rows that are wanted. batch: the batch size
    of the shapes in the graph. budget: the bytes that gradients and activations may take. One pass over all batches, forwards
    and backwards through the float model, serves as many sites as fit into half of it. Whole gradients are kept only where the
    metric needs them.
    """

    def __init__(
        self,
        gm: fx.GraphModule,
        batches: Sequence[Inputs],
        samples: dict[Site, Sample],
        kind: Gradient,
        budget: int,
        seed: int,
        batch: int,
    ) -> None:
        self.gm, self.batches, self.samples, self.kind, self.budget, self.seed = (
            gm,
            batches,
            samples,
            kind,
            budget,
            seed,
        )
        self.per_image = {n: size_of(any_value_of(n)) // batch for n in gm.graph.nodes if n.op != "get_attr"}
        self.taken: dict[fx.Node, _Collected] = {}

    def at(self, site: Site) -> Sensitivity:
        """Return the sensitivity at the outputs of `site`; layers that share an input are joined along the channels."""
        if site.first not in self.taken:
            self._take(self._fitting(site))
        collected = [self.taken.pop(n) for n in site.products]
        if collected[0].whole:
            gradient = torch.cat([torch.cat(c.rows) for c in collected], -1)
            return Sensitivity.of(gradient if site.activations else gradient[None, None])
        if site.activations:
            (one,) = collected
            return Sensitivity(_normalised(torch.cat(one.rows)), _normalised(torch.cat(one.columns)))
        widths = torch.tensor([len(c.sums) for c in collected])
        tokens = torch.stack([torch.cat(c.rows) for c in collected], -1) @ (widths / widths.sum()).to(
            self._device, torch.float64
        )
        channels = torch.cat([c.sums for c in collected])
        return Sensitivity(_normalised(tokens)[None, None], _normalised(channels)[None, None])

    @property
    def _device(self) -> torch.device:
        return self.batches[0][0].device

    def _fitting(self, site: Site) -> list[Site]:
        """Return `site` and those after it of which what is kept fits into half of the budget."""
        used, chosen, sites = 0.0, list[Site](), list(self.samples)
        count = sum(map(batch_size, self.batches))
        for each in sites[sites.index(site) :]:
            sample, value = self.samples[each], known_value(each.first)
            kept = 1.0 if _needs_whole(each) else 2 / max(1, value.shape[-1])
            used += sum(self.per_image[n] for n in each.products) * count * sample.tokens / sample.total * kept
            if chosen and used > self.budget / 2:
                break
            chosen.append(each)
        return chosen

    def _take(self, sites: Sequence[Site]) -> None:
        products = {n: site for site in sites for n in site.products}
        self.taken = {n: _Collected(_needs_whole(site)) for n, site in products.items()}
        generator = torch.Generator().manual_seed(self.seed)  # the same labels in every pass
        few = max(1, self.budget // 2 // max(1, sum(self.per_image.values())))
        start: dict[fx.Node, int] = dict.fromkeys(products, 0)
        for inputs in (part for batch in self.batches for part in _split(batch, few)):
            for node, gradient in self._backward(inputs, set(products), generator).items():
                site = products[node]
                rows = site.output_rows(node, gradient).float()
                self.taken[node].add(self.samples[site].take([rows], start[node]))
                start[node] += rows.shape[0]

    def _backward(self, inputs: Inputs, products: set[fx.Node], generator: torch.Generator) -> dict[fx.Node, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            recorded = _Recorded(self.gm, products)
            found = recorded.run(*(_differentiable(t) for t in inputs))
            loss = self._loss([t.float() for t in output_leaves(found) if isinstance(t, Tensor)], generator)
        outputs = list(recorded.outputs.items())
        gradients = torch.autograd.grad(loss, [y for _, y in outputs], allow_unused=True)
        return {node: torch.zeros_like(y) if g is None else g for (node, y), g in zip(outputs, gradients, strict=True)}

    def _loss(self, found: list[Tensor], generator: torch.Generator) -> Tensor:
        if self.kind is Gradient.SAMPLED_OUTPUT:
            # -log p of a sample from a Gaussian around each output has this gradient.
            # Drawn image by image, so that it does not matter how many run at once.
            rows = [[torch.randn(t.shape[1:], generator=generator) for t in found] for _ in range(len(found[0]))]
            noise = [torch.stack(drawn) for drawn in zip(*rows, strict=True)]
            return torch.stack([(t * n.to(t.device)).sum() for t, n in zip(found, noise, strict=True)]).sum()
        if len(found) != 1 or found[0].dim() != 2:
            shapes = ", ".join(str(tuple(t.shape)) for t in found)
            raise CalibrationError(
                f"Gradient.{self.kind.name} needs a classifier: expected logits (B, classes), found shape "
                f"{shapes or 'none'}; use Gradient.SAMPLED_OUTPUT"
            )
        logits = found[0]
        probabilities = logits.detach().softmax(-1)
        if self.kind is Gradient.PREDICTION:
            return F.kl_div(logits.log_softmax(-1), probabilities, reduction="batchmean")
        labels = torch.multinomial(probabilities.cpu(), 1, generator=generator)[:, 0]
        return F.cross_entropy(logits, labels.to(logits.device), reduction="sum")


@dataclass(eq=False)
class _Collected:
    """What is kept of one product's gradient: all of it, or the mean squares of its rows and columns."""

    whole: bool
    rows: list[Tensor] = field(default_factory=list)
    columns: list[Tensor] = field(default_factory=list)
    sums: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, gradient: Tensor) -> None:
        """Take in more rows, ``(T, O)`` or ``(E, H, N, M)``."""
        if self.whole:
            self.rows.append(gradient)
            return
        squared = gradient.double().square()
        self.rows.append(squared.mean(-1))
        if gradient.dim() == 4:
            self.columns.append(squared.mean(-2))
        else:
            self.sums = self.sums.to(squared) + squared.sum(0)


class _Recorded(fx.Interpreter):
    """Run the float model and keep the outputs of some products."""

    def __init__(self, gm: fx.GraphModule, products: set[fx.Node]) -> None:
        super().__init__(gm)
        self.products = products
        self.outputs: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self.products:
            self.outputs[n] = result
        return result

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.fetch_attr(str(target))
        return args[0] if isinstance(module, Observer | InputRecorder) else super().call_module(target, args, kwargs)


def _split(inputs: Inputs, few: int) -> Iterator[Inputs]:
    """Yield the inputs of `few` images at a time; what all images share goes with each of them."""
    parts = -(-batch_size(inputs) // few)
    yield from zip(*(t.split(few) if has_batch(t, inputs) else [t] * parts for t in inputs), strict=True)


def _differentiable(tensor: Tensor) -> Tensor:
    return tensor.clone().requires_grad_() if tensor.is_floating_point() else tensor


def _needs_whole(site: Site) -> bool:
    return site.record.search is not None and site.record.search.metric is Metric.HESSIAN


def _normalised(weights: Tensor) -> Tensor:
    """Return weights as float32 with a mean of 1; all 1 where they are all 0."""
    mean = weights.double().mean()
    return (weights / mean).float() if float(mean) > 0 else torch.ones_like(weights, dtype=torch.float32)
