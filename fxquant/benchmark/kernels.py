"""Which kernel runs each product of an int8 graph, with similar products in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

import fxquant
from fxquant.inspection.report import ProductReport


@dataclass(frozen=True)
class KernelLine:
    """
    Products that one kernel runs.

    name: the name of the products, with * in place of numbers that differ.
    macs: the sum of their multiply-accumulates for one batch.
    reason: why they stay float; None where they are not. codes: the kind that they multiply, "int8" or "float8".
    """

    name: str
    product: str
    kernel: str
    int8: bool
    count: int
    macs: int
    reason: str | None
    codes: str | None

    def as_json(self) -> dict[str, Any]:
        """Return all fields."""
        return dict(vars(self))


def list_kernels(gm: fx.GraphModule, compiled: bool) -> list[KernelLine]:
    """Return the products of a converted graph with the kernels of its device, eagerly or under `fxquant.compile`."""
    model: nn.Module = fxquant.compile(gm) if compiled else gm
    # What only torch.compile was applied to keeps the kernels of the graph.
    return group_products(fxquant.report(model if hasattr(model, "graph_module") else gm))


def group_products(products: Iterable[ProductReport]) -> list[KernelLine]:
    """Join products whose names differ in numbers alone, in the order of the graph."""
    lines: dict[tuple[Any, ...], list[int]] = {}
    for record in products:
        name = re.sub(r"(?<=\.)\d+(?=\.|$)", "*", record.name)
        kind, reason = (record.int8, record.codes), None if record.codes else record.reason or "float"
        key = (name, record.product, record.kernel, *kind, reason)
        lines.setdefault(key, []).append(record.macs or 0)
    return [
        KernelLine(name, product, kernel, int8, len(macs), sum(macs), reason, codes)
        for (name, product, kernel, int8, codes, reason), macs in lines.items()
    ]
