"""One row for each node of a graph that computes something: what it is, where it comes from, and what runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import Tensor, fx

from fxquant.graph.attributes import called_module
from fxquant.graph.calls import operator_name
from fxquant.graph.dataflow import PRODUCTS, is_size, moves_values
from fxquant.graph.meta import any_value_of, has_value, module_path, module_stack, record_of
from fxquant.graph.products import product_of, unique_label
from fxquant.graph.rewrite import location
from fxquant.graph.stages import Stage, stage_of
from fxquant.inspection.links import result_of
from fxquant.inspection.report import ProductReport, product_reports
from fxquant.numerics.granularity import PerToken

# A row is known by it in all graphs of a model: ("product", label), or module, operator and which of several it is.
Key = tuple[str, ...]


@dataclass(frozen=True)
class GraphRow:
    """
    One node.

    key: the same for corresponding nodes of other graphs. module: the path of the module that it comes from. state: of a
    product, what runs: "int8", "token" (int8 with a scale per token), "float8", "fake" (rounded and computed in float),
    "observed", "float" or "opaque"; "" of any other node. shape: of its value, as text. line: its code. minor: it makes no
    values of its own, as observers, moves and sizes do.
    """

    key: Key
    node: fx.Node
    module: str
    operator: str
    state: str
    shape: str
    line: str
    minor: bool
    report: ProductReport | None

    @property
    def name(self) -> str:
        """What a person calls it: the rest of a product's label within its module, or the operator."""
        if self.report is None:
            return self.operator
        return self.key[-1].removeprefix(self.module).lstrip(".") or self.operator

    @property
    def source(self) -> str:
        """The line of the model's code that it comes from, empty where that is not known."""
        return location(self.node).strip(" ()")


def graph_rows(gm: fx.GraphModule, backend: str) -> list[GraphRow]:
    """Return the rows of `gm` in order; tensors that nodes read have none of their own. backend: see `fxquant.compile`."""
    reports, stage = product_reports(gm, backend), stage_of(gm)
    labels, counts, rows = set[str](), Counter[Key](), list[GraphRow]()
    key: Key
    for node in gm.graph.nodes:
        if node.op in ("get_attr", "output"):
            continue
        called = called_module(node)
        operator = _operator(node) if called is None else type(called).__name__
        found, module = reports.get(node), module_path(node)
        record = record_of(node)
        if found is not None and record is not None:
            module, key = record.module, ("product", record.label)
        elif node.target in PRODUCTS:
            key = ("product", unique_label(product_of(node), module or node.name, labels))
        else:
            kind = (module, result_of(node) or operator if record is None else operator)
            key = (*kind, str(counts[kind]))
            counts[kind] += 1
        line = node.format_node() or ""
        minor = found is None and (called is not None or _is_minor(node))
        rows.append(GraphRow(key, node, module, operator, state_of(found, stage), _shape(node), line, minor, found))
    return rows


def state_of(report: ProductReport | None, stage: Stage | None) -> str:
    """Return the state of a product in a graph at `stage`, as `GraphRow` has it; "" where there is no report of one."""
    if report is None:
        return ""
    if report.int8:
        return "token" if any(o.granularity == str(PerToken()) for o in report.operands) else "int8"
    if report.float8:
        return "float8"
    if report.product == "opaque":
        return "opaque"
    if report.reason is not None:
        return "float"
    return "observed" if stage is Stage.PREPARED else "fake"


def module_types(gm: fx.GraphModule) -> dict[str, str]:
    """Return the class of each module that nodes come from, by its path, where it is known."""
    found: dict[str, str] = {}
    for node in gm.graph.nodes:
        for path, kind in module_stack(node).values():
            found.setdefault(path, str(getattr(kind, "__name__", kind)).rpartition(".")[2])
    return found


def _operator(node: fx.Node) -> str:
    return f"input {node.target}" if node.op == "placeholder" else operator_name(node)


def _is_minor(node: fx.Node) -> bool:
    """Say whether a node only moves values, or is known to give none but numbers and flags."""
    known = any_value_of(node)
    values = known if isinstance(known, tuple | list) else (known,)
    computes = any(isinstance(v, Tensor) and v.dim() > 1 for v in values)
    return moves_values(node) or is_size(node) or (has_value(node) and not computes)


def _shape(node: fx.Node) -> str:
    value = any_value_of(node)
    values = value if isinstance(value, tuple | list) else (value,)
    shapes = [f"{str(v.dtype).removeprefix('torch.')} {tuple(v.shape)}" for v in values if isinstance(v, Tensor)]
    return ", ".join(shapes)
