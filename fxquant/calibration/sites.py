"""Where scales are searched: the products that read one operand the same way, and what their sides are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.errors import ConfigError
from fxquant.graph.attributes import called_module, weight_of, window_of
from fxquant.graph.meta import Record, known_value, record_of
from fxquant.numerics.granularity import PerTensor
from fxquant.observers.base import Observer


@dataclass(frozen=True, eq=False)
class Site:
    """Products that are searched together: all linear layers that read one quantised input, or a single other product."""

    products: tuple[fx.Node, ...]

    @property
    def first(self) -> fx.Node:
        """The product that runs first."""
        return self.products[0]

    @property
    def record(self) -> Record:
        """What is known of the first product; search and noise are the same for all."""
        record = record_of(self.first)
        if record is None:
            raise RuntimeError("a site is made of annotated products")
        return record

    @property
    def label(self) -> str:
        """Names of the products."""
        records = [record_of(n) for n in self.products]
        return ", ".join(r.label for r in records if r is not None)

    @property
    def activations(self) -> bool:
        """Whether both operands are activations."""
        return self.first.target is torch.matmul

    def observer(self, position: int, product: fx.Node | None = None) -> Observer | None:
        """Return the observer of an operand, None where it stays float."""
        module = called_module((product or self.first).args[position])
        return module if isinstance(module, Observer) else None

    def output_rows(self, product: fx.Node, value: Tensor) -> Tensor:
        """View an output of `product` as `rows` views its input: ``(T, O)``, or ``(E, H, N, M)`` of attention."""
        if self.activations:
            return _four_axes(value)
        if product.target is F.conv2d:
            value = value.movedim(1, -1)
        return value.reshape(-1, value.shape[-1])

    def rows(self, position: int, value: Tensor) -> Tensor:
        """View an operand as the rows that are searched: ``(T, K)`` of an input, ``(E, H, N, K)`` of attention."""
        if self.activations:
            return _four_axes(value)
        if self.first.target is F.conv2d:
            return self._patches(value)
        return value.reshape(-1, value.shape[-1])

    def _patches(self, value: Tensor) -> Tensor:
        weight = weight_of(self.first)
        window = window_of(self.first)
        columns = F.unfold(
            value.float(), weight.shape[2:], padding=window.padding, stride=window.stride
        )  # (B, C*kh*kw, L)
        return columns.mT.reshape(-1, columns.shape[1])


def find_sites(gm: fx.GraphModule, every: bool) -> list[Site]:
    """
    Return the sites of a prepared graph in the order in which they run.

    every: include products that nothing is searched for. Later products read their quantised results.
    """
    groups: dict[object, list[fx.Node]] = {}
    for node in gm.graph.nodes:
        record = record_of(node)
        if record is None or all(o.spec is None for o in record.operands):
            continue
        if record.search is None and record.noise is None and not every:
            continue
        joint = node.target is F.linear and _is_observed(node.args[0])
        key = node.args[0] if joint else node
        groups.setdefault(key, []).append(node)
    return [Site(tuple(nodes)) for nodes in groups.values()]


def refuse_unsearchable(site: Site) -> None:
    """Raise `ConfigError` where the granularity of an operand is such that its scales cannot be searched."""
    image = site.first.target is F.conv2d
    flat = site.activations and known_value(site.first).dim() != 4
    for position in (0, 1) if site.activations else (0,):
        observer = site.observer(position)
        granularity = observer.spec.granularity if observer is not None else PerTensor()
        if observer is not None and not isinstance(granularity, PerTensor) and (image or flat):
            raise ConfigError(
                f"node {observer.operand!r}: scales of granularity {granularity} cannot be searched for "
                f"{'an image' if image else 'a product of other than (B, H, N, D)'}: use PerTensor, or search=None"
            )


def _is_observed(node: object) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_module"


def _four_axes(value: Tensor) -> Tensor:
    if value.dim() == 4:
        return value
    return value.reshape(-1, 1, *value.shape[-2:])
