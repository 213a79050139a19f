"""What the page shows, as plain data: tables are columns, which compress well."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from fxquant.graph.inputs import Batch, batch_size
from fxquant.graph.meta import card_of, record_of
from fxquant.graph.stages import Stage, stage_of
from fxquant.inspection.graph_rows import GraphRow, Key, module_types
from fxquant.inspection.image_maps import ImageMaps, TokenMap, image_maps, thumbnails
from fxquant.inspection.measure_nodes import drops, graph_inputs, measure_nodes
from fxquant.inspection.operand_histograms import OperandValues, operand_histograms, operand_values
from fxquant.inspection.pass_differences import PassDifference
from fxquant.inspection.report import OperandReport, kinds_of_codes, report
from fxquant.inspection.side_by_side import SharedRow, side_by_side
from fxquant.inspection.time_nodes import time_nodes
from fxquant.inspection.weight_pictures import weight_picture
from fxquant.version import __version__

_SHOWN = 4  # images of which maps are drawn
_ROUNDS = 3
_T = TypeVar("_T")


@dataclass(frozen=True)
class Inspected:
    """
    A graph `gm` with its rows and its title.

    module: what was given, which may hold the graph compiled. shares: of the final error, by the name of a node.
    """

    title: str
    gm: fx.GraphModule
    rows: list[GraphRow]
    module: nn.Module
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """What is measured: on `batches`, against the graph `reference`; time: seconds of nodes as well."""

    reference: Inspected
    batches: Sequence[Batch]
    time: bool

    @cached_property
    def operands(self) -> dict[tuple[Key, int], OperandValues]:
        """The values of the operands of the reference."""
        return operand_values(self.reference.gm, self.reference.rows, self.batches)


def page_data(
    title: str, inspected: Sequence[Inspected], measured: Measured | None, passes: Sequence[PassDifference]
) -> dict[str, Any]:
    """Return everything that the page shows; see `fxquant.inspection.inspect`."""
    shared = side_by_side([i.rows for i in inspected])
    numbers = {row.key: index for index, row in enumerate(shared)}
    types: dict[str, str] = {}
    for each in inspected:
        types = module_types(each.gm) | types
    return {
        "title": title,
        "fxquant": __version__,
        "facts": card_of(inspected[-1].gm).describe(),
        "modules": types,
        "rows": {"module": [row.module for row in shared], "name": [row.name for row in shared]},
        "stages": [_stage(each, index, shared, numbers, measured) for index, each in enumerate(inspected)],
        "weights": list(_weights(shared)),
        "images": None if measured is None else _images(inspected, measured, numbers),
        "passes": [asdict(difference) for difference in passes],
    }


def _stage(
    each: Inspected, index: int, shared: Sequence[SharedRow], numbers: Mapping[Key, int], measured: Measured | None
) -> dict[str, Any]:
    found = report(each.module)
    cells = [(number, cell) for number, row in enumerate(shared) if (cell := row.cells[index]) is not None]
    reports = [cell.report for _, cell in cells]
    columns: dict[str, list[Any]] = {
        "row": [number for number, _ in cells],
        "node": [cell.node.name for _, cell in cells],
        "operator": [cell.operator for _, cell in cells],
        "state": [cell.state for _, cell in cells],
        "minor": [cell.minor for _, cell in cells],
        "shape": [cell.shape for _, cell in cells],
        "line": [cell.line for _, cell in cells],
        "source": [cell.source for _, cell in cells],
        "macs": [r and r.macs for r in reports],
        "kernel": [r and r.kernel for r in reports],
        "reason": [r and r.reason if stage_of(each.gm) is not Stage.FLOAT else None for r in reports],
        "operands": [r and [_operand(o) for o in r.operands] for r in reports],
    }
    stage = {
        "title": each.title,
        "float_dtype": found.float_dtype,
        "coverage": found.coverage,
        "products": len(found),
        "int8": sum(r.codes is not None for r in found),
        "codes": kinds_of_codes(found),
        "cells": columns,
        "histograms": [],
    }
    if each.shares:
        shares = _by_product(each.gm, each.shares)
        columns["of_error"] = [shares.get(_node_or_label(cell)) for _, cell in cells]
    if measured is not None:
        stage["histograms"] = _measure(each, [cell for _, cell in cells], columns, numbers, measured)
    return stage


def _measure(
    each: Inspected,
    cells: Sequence[GraphRow],
    columns: dict[str, list[Any]],
    numbers: Mapping[Key, int],
    measured: Measured,
) -> list[dict[str, Any]]:
    """Add what is measured to the columns, and return the histograms of the operands."""
    reference = measured.reference
    if stage_of(each.gm) not in (Stage.FLOAT, Stage.PREPARED):
        found = _by_product(each.gm, measure_nodes(reference.gm, each.gm, measured.batches))
        values = [found.get(_node_or_label(cell)) for cell in cells]
        for name in ("sqnr", "cosine", "max_error"):
            columns[name] = [None if v is None else _finite(getattr(v.alone or v, name)) for v in values]
        fallen = drops(each.gm, found)
        columns["drop"] = [None if v is None or v.node not in fallen else _finite(fallen[v.node]) for v in values]
        columns["sum_sqnr"] = [None if v is None or v.alone is None else _finite(v.sqnr) for v in values]
    if measured.time:
        first = next(graph_inputs(each.gm, measured.batches))
        seconds = time_nodes(each.gm, first, _ROUNDS)
        columns["ms"] = [1e3 * seconds[cell.node] if cell.node in seconds else None for cell in cells]
    return [
        {"row": numbers[key]} | asdict(histogram)
        for key, histograms in operand_histograms(each.rows, measured.operands).items()
        for histogram in histograms
        if histogram.grid is not None or each is reference
    ]


def _by_product(gm: fx.GraphModule, found: Mapping[str, _T]) -> dict[str, _T]:
    """Return what was found by the name of the node, and by the label of the product that its value belongs to."""
    result = dict(found)
    for node in gm.graph.nodes:
        record = record_of(node)
        if record is not None and node.name in found:
            result[f"product {record.label}"] = found[node.name]
    return result


def _node_or_label(cell: GraphRow) -> str:
    return " ".join(cell.key) if cell.report is not None and cell.key[0] == "product" else cell.node.name


def _operand(operand: OperandReport) -> list[Any]:
    kind, _, options = (operand.granularity or "").partition("(")
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind).lower() + (f" ({options}" if "groups" in options else "")
    return [operand.name, operand.dtype, list(operand.shape or ()), words, operand.scale]


def _weights(shared: Sequence[SharedRow]) -> Iterable[dict[str, Any]]:
    for number, row in enumerate(shared):
        for cell in row.cells:
            found = weight_picture(cell.node) if cell is not None and cell.report is not None else None
            if found is not None:
                yield {
                    "row": number,
                    "channels": found.channels,
                    "limit": found.limit,
                    "integer": found.integer,
                    "shape": list(found.picture.shape),
                    "picture": _bytes(found.picture),
                }
                break


def _images(inspected: Sequence[Inspected], measured: Measured, numbers: Mapping[Key, int]) -> dict[str, Any]:
    reference = measured.reference
    inputs = tuple(
        t[:_SHOWN] if t.dim() and t.shape[0] == batch_size((t,)) else t
        for t in next(graph_inputs(reference.gm, measured.batches))
    )
    config = card_of(inspected[-1].gm).data_config
    pictures: list[bytes] = []
    if inputs[0].dim() == 4:
        mean, std = (None, None) if config is None else (config.mean, config.std)
        pictures = thumbnails(inputs[0], mean, std)
    maps = {each.title: image_maps(each.gm, inputs) for each in inspected}
    return {
        "pictures": [base64.b64encode(p).decode() for p in pictures],
        "norms": list(_norms(inspected, maps, numbers)),
        "attention": [
            {"module": module, "stage": title} | _map(found)
            for title, each in maps.items()
            for module, found in each.attention.items()
        ],
    }


def _norms(
    inspected: Sequence[Inspected], maps: Mapping[str, ImageMaps], numbers: Mapping[Key, int]
) -> Iterable[dict[str, Any]]:
    for each in inspected:
        rows = {row.node: numbers[row.key] for row in each.rows}
        for node, found in maps[each.title].norms.items():
            if node in rows:
                yield {"row": rows[node], "stage": each.title} | _map(found)


def _map(found: TokenMap) -> dict[str, Any]:
    largest = float(found.values.max()) or 1.0
    return {
        "grid": list(found.grid),
        "prefixes": found.prefixes,
        "largest": largest,
        "shape": list(found.values.shape),
        "values": _bytes((found.values * (255 / largest)).round().to(torch.uint8)),
    }


def _bytes(values: Tensor) -> str:
    return base64.b64encode(values.contiguous().numpy().tobytes()).decode()


def _finite(value: float) -> float | str | None:
    """Return what JSON can hold: infinity, of nodes that are equal, as text."""
    return "exact" if value == math.inf else value if math.isfinite(value) else None
