"""What runs on int8, what does not, and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import fx, nn
from torch._ops import OpOverloadPacket

from fxquant.config.operands import Role
from fxquant.errors import UnsupportedGraphError
from fxquant.graph.attributes import reads_tensor, tensor_of
from fxquant.graph.calls import arguments_of
from fxquant.graph.dataflow import PRODUCTS
from fxquant.graph.meta import (
    Capture,
    Operand,
    Record,
    capture_of,
    hidden_macs,
    model_dtype,
    module_path,
    record_of,
    value_of,
)
from fxquant.graph.stages import Stage, stage_of
from fxquant.inspection.html import fill
from fxquant.inspection.kernel_names import kernel_of
from fxquant.kernels import chosen_backend
from fxquant.kernels.cpu.schemas import KERNELS
from fxquant.lowering.obstacles import obstacle
from fxquant.lowering.quantized import INT8_PRODUCTS, factors, is_quantized, product_scale, quantized
from fxquant.lowering.quantizer_site import maker_behind, quantizer_site
from fxquant.lowering.token_site import codes_of
from fxquant.numerics.granularity import PerToken
from fxquant.observers.operand_spec import OperandSpec
from fxquant.ops import attention, attention_quantize, dequantize_float8, float8_linear, quantize_float8
from fxquant.ops.onednn_linear import onednn_linear

_FLOAT_PRODUCTS = (*PRODUCTS, attention, attention_quantize, KERNELS.cpu_attention.default)
_INT8 = (*INT8_PRODUCTS, onednn_linear, KERNELS.cpu_gemm.default, KERNELS.cpu_gemm_tokens.default)
_FLOAT8 = (float8_linear,)
_ATTENTION = (F.scaled_dot_product_attention, attention, attention_quantize, KERNELS.cpu_attention.default)


# The part of all multiply-accumulates from which on a difference between the model and its graph is told.
_COUNTED = 0.001
# Of operators whose matrix products torch's own counter sees.
_COUNTED_NAMESPACES = ("aten", "prims", "fxquant")
# The part of the error of a product from which on it is told that the 8-bit form of powers makes it.
TABLE_SHARE = 0.5


@dataclass(frozen=True)
class OperandReport:
    """
    One operand: its dtype at run time ("int8", "uint4", "float32"), granularity and scale (the largest of several).

    table_error: of AdaLog's powers, how far rounding them to 8-bit codes moves the output of the product, and how far all
    quantisation of the product does, as fractions of the output's norm; measured where scales are searched, else None.
    token_ratio: how many times the median token's range the widest token has, where that decided about the granularity.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None
    granularity: str | None
    scale: float | None
    table_error: tuple[float, float] | None = None
    token_ratio: float | None = None

    @property
    def granularity_reason(self) -> str | None:
        """Why calibration chose this granularity, None where the config did."""
        ratio = self.token_ratio
        return None if ratio is None else f"the widest token has {ratio:.1f} times the median token's range"


@dataclass(frozen=True)
class ProductReport:
    """
    One matrix product.

    macs: multiply-accumulates for the batch that calibrated it, None where shapes are unknown. kernel: what computes it on the
    device that the graph is on. searched_tokens: on how many of how many tokens of the calibration images its scales were
    searched, None where they were not. int8, float8: whether it multiplies codes of this kind.
    """

    name: str
    module: str
    product: str
    operands: tuple[OperandReport, ...]
    output_shape: tuple[int, ...] | None
    macs: int | None
    int8: bool
    requested: bool
    reason: str | None
    kernel: str
    searched_tokens: tuple[int, int] | None = None
    float8: bool = False

    @property
    def codes(self) -> str | None:
        """What kind of codes it multiplies, "int8" or "float8"; None for floats."""
        return "int8" if self.int8 else "float8" if self.float8 else None


class Report:
    """
    The products of a graph; iterate over it for `ProductReport` records, print it for a table.

    stage: its name. float_dtype: of what is not int8, by name. rounded: the names of values that are quantised although no
    product reads them, because a `Placement` says so. capture: how the graph was captured, whether it was compared with its
    model, and what an independent count of the model's multiply-accumulates found beyond the graph; None where that is unknown.

    Products inside calls that fxquant does not open are records of the product "opaque", which are never int8.
    """

    def __init__(
        self,
        records: tuple[ProductReport, ...],
        stage: str,
        float_dtype: str,
        rounded: tuple[str, ...] = (),
        capture: Capture | None = None,
    ) -> None:
        self.capture = capture
        self.records = records
        self.rounded = rounded
        self.stage = stage
        self.float_dtype = float_dtype

    @property
    def coverage(self) -> float:
        """Share of all multiply-accumulates of matrix products that run on codes, 0..1; those the graph lacks do not."""
        total = sum(r.macs or 0 for r in self.records)
        lowered = sum(r.macs or 0 for r in self.records if r.codes)
        return lowered / total * (1 - max(self._missing, 0.0)) if total else 0.0

    @property
    def _missing(self) -> float:
        return (self.capture.missing if self.capture is not None else None) or 0.0

    def __iter__(self) -> Iterator[ProductReport]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("product", "operands", "output", "MACs", "runs on")]
        rows += [_row(r) for r in self.records]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        head, *notes = self._notes()
        return "\n".join([head, *lines, *notes])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        rows = [(r, _row(r)) for r in self.records]
        return fill("report.html.jinja", report=self, rows=rows, lines=self._notes())

    def _notes(self) -> list[str]:
        """Return the head of the report, and what else is to be said of the whole."""
        count, kinds = sum(r.codes is not None for r in self.records), kinds_of_codes(self)
        head = (
            f"stage {self.stage}: {count} of {len(self)} products on {kinds}, {self.coverage:.1%} of multiply-accumulates; "
            f"the rest is {self.float_dtype}"
        )
        lines = [head]
        sampled = [r.searched_tokens for r in self.records if r.searched_tokens and len(set(r.searched_tokens)) == 2]
        if sampled:
            used, total = min(sampled, key=lambda tokens: tokens[0] / tokens[1])
            lines.append(f"searched on part of the tokens: {len(sampled)} products, the least {used} of {total}")
        tables = [(*o.table_error, r.name) for r in self.records for o in r.operands if o.table_error is not None]
        coarse = [(own, whole, name) for own, whole, name in tables if own > TABLE_SHARE * whole]
        if coarse:
            own, whole, name = max(coarse)
            lines.append(
                f"8-bit tables of powers are over {TABLE_SHARE:.0%} of the error of {len(coarse)} products, of {len(tables)} "
                f"that read them: {own:.1%} of {whole:.1%} in {name}"
            )
        if self.capture is not None and not self.capture.verified:
            lines.append("not verified: the graph was not compared with its model; give fxquant.trace an example input")
        if abs(self._missing) >= _COUNTED:
            lines.append(f"the model computes {self._missing:+.1%} multiply-accumulates beyond these products")
        if self.rounded:
            lines.append(f"rounded to codes and back, no product reads them: {len(self.rounded)} values")
        return lines


def report(gm: nn.Module) -> Report:
    """
    Return the report of a graph at any stage, compiled or not: one record per matrix product.

    Shapes and multiply-accumulates are known once the graph was traced with example inputs or calibrated and converted.

    Raises `UnsupportedGraphError` for a module that is no graph.
    """
    gm, backend = graph_of(gm, "report")
    stage = stage_of(gm)
    dtype = str(model_dtype(gm)).removeprefix("torch.")
    records = tuple(product_reports(gm, backend).values())
    return Report(records, stage.value if stage else "unknown", dtype, tuple(_rounded(gm)), capture_of(gm))


def graph_of(gm: nn.Module, verb: str) -> tuple[fx.GraphModule, str]:
    """
    Return a graph, or the one that a compiled module holds, and the backend that it runs on.

    Raises `UnsupportedGraphError`, which says what `verb` expected, for any other module.
    """
    backend = chosen_backend()
    if not isinstance(gm, fx.GraphModule):
        backend, gm = getattr(gm, "backend", backend), getattr(gm, "graph_module", gm)
    if not isinstance(gm, fx.GraphModule):
        raise UnsupportedGraphError(f"{verb} expected a graph that fxquant made, found a {type(gm).__name__}")
    return gm, backend


def kinds_of_codes(products: Iterable[ProductReport]) -> str:
    """Return the kinds of codes that any of `products` runs on, for people; "int8" where none does."""
    return " and ".join(sorted({p.codes for p in products if p.codes}, reverse=True)) or "int8"


def product_reports(gm: fx.GraphModule, backend: str) -> dict[fx.Node, ProductReport]:
    """Return the record of each product of a graph, by its node, in order; backend: what it was compiled for."""
    stage = stage_of(gm)
    rows = ((node, _row_of(node, stage, backend)) for node in gm.graph.nodes)
    return {node: row for node, row in rows if row is not None}


def _row_of(node: fx.Node, stage: Stage | None, backend: str) -> ProductReport | None:
    if node.target in (*_INT8, *_FLOAT8, *_FLOAT_PRODUCTS):
        return _product(node, stage, backend)
    return _opaque(node) if hidden_macs(node) or _is_uncounted(node) else None


def _is_uncounted(node: fx.Node) -> bool:
    """Say whether `node` calls an operator of another library, of which nobody knows what it computes."""
    packet = getattr(node.target, "overloadpacket", node.target)
    return (
        isinstance(packet, OpOverloadPacket) and packet._qualified_op_name.partition("::")[0] not in _COUNTED_NAMESPACES
    )


def _opaque(node: fx.Node) -> ProductReport:
    macs = hidden_macs(node) or None
    name = str(getattr(node.target, "__name__", node.target))
    count = "unknown" if macs is None else f"{macs}"
    return ProductReport(
        name=module_path(node) or node.name,
        module=module_path(node),
        product="opaque",
        operands=(),
        output_shape=_shape(node),
        macs=macs,
        int8=False,
        requested=True,
        reason=f"opaque: {count} multiply-accumulates in {name}, which has no int8 form here",
        kernel=name,
    )


def _rounded(gm: fx.GraphModule) -> Iterator[str]:
    """Yield the names of computed values that are dequantised for anything but a product."""
    for node in gm.graph.nodes:
        read = quantized(node)
        if read is None or read.codes.op == "get_attr" or all(u.target in (*PRODUCTS, "to") for u in node.users):
            continue
        yield str(read.scale.target).removesuffix("_scale")


def _product(node: fx.Node, stage: Stage | None, backend: str) -> ProductReport:
    record = record_of(node)
    int8, float8 = node.target in _INT8, node.target in _FLOAT8
    module = record.module if record else module_path(node)
    return ProductReport(
        name=record.label if record else module or node.name,
        module=module,
        product=record.product.value if record else str(getattr(node.target, "__name__", node.target)),
        operands=_int8_operands(node, record) if int8 or float8 else _operands(node, record),
        output_shape=_shape(node),
        macs=multiply_accumulates(node),
        int8=int8,
        requested=record.requested if record else False,
        reason=None if int8 or float8 else _reason(node, record, stage),
        kernel=kernel_of(node, backend),
        searched_tokens=record.tokens if record else None,
        float8=float8,
    )


def _reason(node: fx.Node, record: Record | None, stage: Stage | None) -> str | None:
    if record is not None and record.reason is not None:
        return record.reason
    if record is None or stage in (None, Stage.FLOAT):
        return "not prepared yet"
    if stage is Stage.PREPARED:
        return None
    simulated = any(is_quantized(a) for a in factors(node)[:2])
    return obstacle(node) if stage is Stage.LOWERED or not simulated else None


def _operands(node: fx.Node, record: Record | None) -> tuple[OperandReport, ...]:
    known: tuple[Operand | None, ...] = record.operands if record else (None,) * (3 if len(node.args) > 3 else 2)
    if record and node.target is F.scaled_dot_product_attention:  # where probabilities are no argument
        known = (*known[:2], *known[3:])
    result, values = [], factors(node)
    for index, operand in enumerate(known):
        value = values[index] if index < len(values) else None
        name = operand.name.rpartition(".")[2] if operand else ("input", "weight", "value")[min(index, 2)]
        spec = operand.spec if operand else None
        if operand is None or spec is None:
            result.append(OperandReport(name, _dtype(value), _shape(value), None, None))
            continue
        scale, granularity = _scale(value), str(spec.granularity)
        measured = (operand.table_error, operand.token_ratio)
        result.append(OperandReport(name, spec.dtype, _shape(value), granularity, scale, *measured))
    return tuple(result)


def _int8_operands(node: fx.Node, record: Record | None) -> tuple[OperandReport, ...]:
    if record is None:
        return ()
    reports = []
    values = factors(node)
    makers = [maker_behind(value) for value in values]
    for operand, value, own, other in zip(record.operands, values, makers, reversed(makers), strict=True):
        spec, scale = operand.spec, _scale(own)
        if scale is None and _scales(other):  # a constant, whose scale was folded with the other one
            scale = float(tensor_of(product_scale(node)).max() / tensor_of(_scales(other)[0]).max())
        elif operand.role is Role.WEIGHT and any(_is_per_token(o.spec) for o in record.operands):
            scale = float(tensor_of(product_scale(node)).max())  # that of a token is known at run time
        name, granularity = operand.name.rpartition(".")[2], str(spec.granularity) if spec else None
        dtype = spec.dtype if spec else "float"
        measured = (operand.table_error, operand.token_ratio)
        reports.append(OperandReport(name, dtype, _shape(value), granularity, scale, *measured))
    return tuple(reports)


def _is_per_token(spec: OperandSpec | None) -> bool:
    return spec is not None and isinstance(spec.granularity, PerToken)


def _scale(value: object) -> float | None:
    """Return the largest scale by which a node quantises or dequantises, None where it has no constant one."""
    return max((float(tensor_of(scale).abs().max()) for scale in _scales(value)), default=None)


def _scales(value: object) -> tuple[fx.Node, ...]:
    """Return the constant scales by which a node quantises or dequantises: of twin-uniform codes the high one first."""
    if isinstance(value, fx.Node) and value.target in (quantize_float8, dequantize_float8):
        scale = arguments_of(value)["scale"]
        return (scale,) if reads_tensor(scale) else ()
    site = quantizer_site(value)
    return () if site is None else site.scales


def multiply_accumulates(node: fx.Node) -> int | None:
    """Return the multiply-accumulates of a product for the batch that its shapes are of, None where these are unknown."""
    out, (left, right) = _shape(node), map(_shape, factors(node)[:2])
    if out is None or left is None or right is None:
        return None
    if node.target is F.conv2d:
        return math.prod(out) * math.prod(right[1:])
    if node.target in _ATTENTION:
        # scores (.., N, M) over D, then context (.., N, E) over M
        return math.prod(left) * right[-2] + math.prod(out) * right[-2]
    return math.prod(out) * left[-1]


def _shape(value: Any) -> tuple[int, ...] | None:
    known = value_of(codes_of(value))
    return tuple(known.shape) if known is not None else None


def _dtype(value: Any) -> str:
    known = value_of(value)
    return str(known.dtype).removeprefix("torch.") if known is not None else "float"


def _row(r: ProductReport) -> tuple[str, ...]:
    operands = ", ".join(f"{o.name} {o.dtype}{_shown_scale(o)}{_shown_table(o)}" for o in r.operands)
    macs = "?" if r.macs is None else f"{r.macs / 1e6:.1f}M"
    where = f"{r.codes}: {r.kernel}" if r.codes else f"float: {r.reason}" if r.reason else "simulated"
    return (r.name, operands, str(r.output_shape or "?"), macs, where)


def _shown_scale(operand: OperandReport) -> str:
    if operand.granularity == str(PerToken()):
        return " per token" if operand.token_ratio is None else f" per token (outlier {operand.token_ratio:.1f}x)"
    return "" if operand.scale is None else f" {operand.scale:.3g}"


def _shown_table(operand: OperandReport) -> str:
    if operand.table_error is None:
        return ""
    own, whole = operand.table_error
    return f" (8-bit table {own:.1%} of {whole:.1%} error)"
