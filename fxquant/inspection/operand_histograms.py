"""How the operands of products are distributed, and where the grids lie that they are rounded to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxquant.graph.attributes import tensor_of
from fxquant.graph.inputs import Batch
from fxquant.inspection.graph_rows import GraphRow, Key
from fxquant.inspection.measure_nodes import graph_inputs
from fxquant.inspection.run_nodes import real_value, run_nodes
from fxquant.lowering.quantized import factors
from fxquant.lowering.quantizer_site import QuantizerSite, quantizer_behind

BINS = 80
# Values of an operand that are kept of each batch, drawn at random.
_DRAWN = 16384


@dataclass(frozen=True)
class OperandGrid:
    """
    The numbers that codes stand for: from `low` to `high` in steps of `step`; of several scales the widest range, median step.

    fine: ``(low, high, step)`` of the second range of a twin-uniform operand. noise: the largest of what is added before
    rounding, 0 where nothing is. scales: how many there are.
    """

    low: float
    high: float
    step: float
    scales: int = 1
    fine: tuple[float, float, float] | None = None
    noise: float = 0.0


@dataclass(frozen=True)
class OperandHistogram:
    """
    Values of operand number `operand` of a product: `counts` of `BINS` equal bins from `low` to `high`.

    clipped: the share of values beyond the `grid`, which is None where the operand has none that is known before it runs.
    """

    operand: int
    low: float
    high: float
    counts: tuple[int, ...]
    grid: OperandGrid | None
    clipped: float


class OperandValues:
    """The range of all values of an operand, and some of them."""

    def __init__(self) -> None:
        self.low, self.high = float("inf"), float("-inf")
        self.drawn: list[Tensor] = []
        self.generator = torch.Generator().manual_seed(0)

    def add(self, values: Tensor) -> None:
        """Take in the values of one batch."""
        flat = values.detach().flatten().float().cpu()
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        drawn = torch.randint(flat.numel(), (min(_DRAWN, flat.numel()),), generator=self.generator)
        self.drawn.append(flat[drawn])

    def histogram(self, operand: int, grid: OperandGrid | None) -> OperandHistogram:
        """Return the histogram of the values that were kept, with the `grid` that they are rounded to."""
        drawn = torch.cat(self.drawn)
        low, high = self.low, max(self.high, self.low + 1e-12)
        counts = torch.histc(drawn, BINS, low, high).int().tolist()
        clipped = 0.0
        if grid is not None:
            bottom = min(grid.low, grid.fine[0] if grid.fine else grid.low) - grid.step / 2
            clipped = float(((drawn < bottom) | (drawn > grid.high + grid.step / 2)).double().mean())
        return OperandHistogram(operand, low, high, tuple(counts), grid, clipped)


def operand_values(
    reference: fx.GraphModule, rows: Iterable[GraphRow], batches: Iterable[Batch]
) -> dict[tuple[Key, int], OperandValues]:
    """Return the values of each computed operand of the products of a float graph, by the key of their row and its number."""
    products = {row.node: row.key for row in rows if row.report is not None}
    values: dict[tuple[Key, int], OperandValues] = {}
    for inputs in graph_inputs(reference, batches):
        for node, known in run_nodes(reference, inputs):
            for index, operand in enumerate(_operands(node) if node in products else ()):
                found = real_value(operand, known[operand])
                if found is not None:
                    values.setdefault((products[node], index), OperandValues()).add(found)
    return values


def operand_histograms(
    rows: Iterable[GraphRow], values: Mapping[tuple[Key, int], OperandValues]
) -> dict[Key, list[OperandHistogram]]:
    """Return the histograms of the operands of each product of a graph, with its grids, by the key of its row."""
    result: dict[Key, list[OperandHistogram]] = {}
    for row in rows:
        for index, operand in enumerate(_operands(row.node) if row.report is not None else ()):
            if (row.key, index) in values:
                site = quantizer_behind(operand)
                grid = None if site is None else _grid(site)
                result.setdefault(row.key, []).append(values[row.key, index].histogram(index, grid))
    return result


def _operands(product: fx.Node) -> list[fx.Node]:
    # A weight that passes through an observer, or is dequantised, is read behind a constant.
    found = [value for value in factors(product)[:3] if isinstance(value, fx.Node)]
    return [value for value in found if value.op != "get_attr" and not _is_constant(value)]


def _is_constant(value: fx.Node) -> bool:
    return bool(value.all_input_nodes) and all(source.op == "get_attr" for source in value.all_input_nodes)


def _grid(site: QuantizerSite) -> OperandGrid:
    scale = tensor_of(site.scale).detach().float().flatten()
    zero_point = torch.zeros_like(scale) if site.zero_point is None else tensor_of(site.zero_point).float().flatten()
    low, high = (site.qmin - zero_point) * scale, (site.qmax - zero_point) * scale
    noise = 0.0 if site.noise is None else float(tensor_of(site.noise).abs().max())
    fine = None
    if site.low is not None and site.split is not None:
        step, split = (float(tensor_of(node).max()) for node in (site.low, site.split))
        # Codes up to 0 are of this range. Of probabilities, which are not negative, its step is.
        fine, low = (min(site.qmin * step, 0.0), max(site.qmin * step, 0.0), abs(step)), torch.full_like(low, split)
    return OperandGrid(float(low.min()), float(high.max()), float(scale.median()), scale.numel(), fine, noise)
