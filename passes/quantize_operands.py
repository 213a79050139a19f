"""Replace each observer by the quantisation it found."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.config.float8 import Float8
from fxquant.config.kinds import kind_of
from fxquant.config.operands import IntegerNorm, TensorSpec
from fxquant.errors import ConfigError
from fxquant.graph import dataflow
from fxquant.graph.attributes import bias_of, called_module, read_buffer, set_bias, tensor_of
from fxquant.graph.calls import arguments_of, call, parameters
from fxquant.graph.meta import (
    copy_knowledge,
    has_value,
    inherit_meta,
    model_dtype,
    provenance,
    record_of,
    set_value,
    take_provenance,
    value_of,
)
from fxquant.graph.rewrite import blame, edit
from fxquant.graph.shapes import varying_axes
from fxquant.lowering.epilogue import ROWS
from fxquant.lowering.float8_site import float8_operand
from fxquant.lowering.integer_norm import integer_input
from fxquant.lowering.quantized import is_quantized, quantized
from fxquant.lowering.quantizer_site import QuantizerSite, dequantize_node, quantize_node, quantizer_arguments
from fxquant.lowering.token_site import quantize_tokens_site
from fxquant.numerics.codes import Codes
from fxquant.numerics.granularity import PerToken
from fxquant.observers.base import Observer, QParams
from fxquant.observers.input_recorder import InputRecorder
from fxquant.observers.log2 import LogIntSoftmax, refuse_coarse
from fxquant.observers.operand_spec import OperandSpec
from fxquant.ops import (
    check_input,
    denoise_bias,
    dequantize_log2,
    integer_layer_norm,
    log_int_softmax,
    quantize,
)


def quantize_operands(gm: fx.GraphModule) -> PassResult:
    """
    Turn observers into quantise / dequantise pairs; weights become codes.

    Before:  y = linear(observers.fc_input(observers.input_x(x)), observers.fc_weight(fc.weight), fc.bias)
    Becomes: x = check_input(x, (None, 3, 224, 224))     # sizes the model is bound to
             y = linear(dequantize(quantize(x, s, z, 0, 255), s, z, 0, 255),     # float32 <- int8 <- any float
                        dequantize(fc.weight_codes, s_w, None, -128, 127, 0),    # float32 <- int8
                        fc.bias)

    A twin-uniform operand becomes dequantize_twin(quantize_twin(x, high, low, split, -127, 127), high, low, split, -127, 127),
    a power of two dequantize_log2(quantize_log2(p, qmax)), and with it the softmax, where that is computed on integers,
    dequantize_log2(log_int_softmax(scores, s, qmax)). An operand with a scale per token becomes
    dequantize_tokens(codes, scale, zero_point) of what quantize_tokens(x, symmetric, 0, 255) gives. Codes of the format e4m3
    are dequantize_float8(quantize_float8(x, s), s), and with a scale per token those of quantize_float8_tokens(x).
    A norm computed on integers becomes
    dequantize(integer_layer_norm(x_codes, factor, z, 255, weight, bias, s, z_out, 0, 255), s, z_out, 0, 255).
    A quantised product computes in float32; in a bfloat16 or float16 model its result is cast back.
    """
    return edit(gm, _quantize)


def _quantize(gm: fx.GraphModule) -> bool:
    observers = {n: module for n in gm.graph.nodes if (module := called_module(n)) is not None}
    checks = _input_checks(gm, [m for m in observers.values() if isinstance(m, InputRecorder)])
    for node, module in observers.items():
        source: fx.Node = node.args[0]
        with blame("quantize_operands", node), gm.graph.inserting_before(node):
            if isinstance(module, Observer):
                value = _quantized(gm.graph, source, module)
            else:
                checked = {"x": source, "shape": checks[module], "name": str(module.operand)}
                value = call(gm.graph, check_input, checked)
                inherit_meta(value, source)
        node.replace_all_uses_with(value)
        gm.graph.erase_node(node)
    for node in list(gm.graph.nodes) if observers else ():
        if node.target in dataflow.PRODUCTS:
            with blame("quantize_operands", node):
                _restore_dtype(node)
    return bool(observers)


def _input_checks(gm: fx.GraphModule, recorders: list[InputRecorder]) -> dict[nn.Module, tuple[int | None, ...]]:
    """Return the shape each input must have, None on the axes where the model accepts any size."""
    examples = [recorder.example() for recorder in recorders]
    checks: dict[nn.Module, tuple[int | None, ...]] = {}
    for index, recorder in enumerate(recorders):
        free = varying_axes(gm, examples, index)
        checks[recorder] = tuple(None if axis in free else n for axis, n in enumerate(examples[index].shape))
    return checks


def _quantized(graph: fx.Graph, source: fx.Node, observer: Observer) -> fx.Node:
    write = next((_WRITERS[each] for each in type(observer.spec).__mro__ if each in _WRITERS), _as_the_table_says)
    codes, value = write(graph, source, observer)
    known = value_of(source)
    if known is not None:
        if not has_value(codes):
            set_value(codes, torch.empty_like(known, dtype=torch.int8, device="meta"))
        set_value(value, torch.empty_like(known, dtype=torch.float32, device="meta"))
    provenance(codes, source)
    take_provenance(value, source)
    return value


def _uniform(graph: fx.Graph, source: fx.Node, observer: Observer) -> tuple[fx.Node, fx.Node]:
    spec, params = observer.spec, observer.calculate_qparams()
    if isinstance(spec.granularity, PerToken):
        return _per_token(graph, source, observer)
    constant = source.op == "get_attr"
    if constant:
        params = observer.per_row(params, tensor_of(source))
    scale, zero_point, name = params.scale, params.zero_point, observer.operand
    scale_node = read_buffer(graph, f"{name}_scale", scale)
    zero_node = None if zero_point is None else read_buffer(graph, f"{name}_zero_point", zero_point)
    site = QuantizerSite(source, scale_node, zero_node, None, None, None, spec.qmin, spec.qmax, params.axis)
    if constant:
        codes = _constant_codes(observer.quantized_from(tensor_of(source)), params, spec.qmin, spec.qmax)
        codes_node = read_buffer(graph, f"{name}_codes", codes)
    else:
        codes_node = quantize_node(graph, site)
    return codes_node, dequantize_node(graph, site, codes_node)


def _per_token(graph: fx.Graph, source: fx.Node, observer: Observer) -> tuple[fx.Node, fx.Node]:
    """Compute a scale for each row from the values themselves."""
    spec = cast(TensorSpec, observer.spec)
    quantize, dequantize = kind_of(spec).operators(spec)
    read = {"x": source, "symmetric": spec.symmetric, "qmin": spec.qmin, "qmax": spec.qmax}
    site = quantize_tokens_site(graph, quantize, read, value_of(source))
    for made in (*site, *site.codes.all_input_nodes):
        provenance(made, source)
    return site.codes, call(graph, dequantize, site._asdict())


def _constant_codes(value: Tensor, params: QParams, qmin: int, qmax: int) -> Tensor:
    """Quantise a constant some rows at a time, or the floats on the way would take as much memory as the model."""
    scale, zero_point, axis = params.scale, params.zero_point, params.axis
    if axis not in (None, 0) or value.dim() < 2:
        return quantize(value, scale, zero_point, qmin, qmax, axis)
    codes = torch.empty_like(value, dtype=torch.int8)
    for start in range(0, value.shape[0], ROWS):
        rows = slice(start, start + ROWS)
        own = [t if t is None or t.dim() == 0 or axis is None else t[rows] for t in (scale, zero_point)]
        codes[rows] = quantize(value[rows], own[0], own[1], qmin, qmax, axis)  # type: ignore[arg-type]
    return codes


def _as_the_table_says(graph: fx.Graph, source: fx.Node, observer: Observer) -> tuple[fx.Node, fx.Node]:
    """Call the operators of this kind of spec on what the observer found."""
    spec = cast(OperandSpec, observer.spec)
    nodes = [source]
    found: dict[str, Any] = dict(observer.operator_arguments())
    for function in kind_of(spec).operators(spec):
        first, *names = parameters(function)
        for name in names:
            if isinstance(found.get(name), Tensor):
                found[name] = read_buffer(graph, f"{observer.operand}_{name}", found[name])
        nodes.append(call(graph, function, {first: nodes[-1]} | {name: found[name] for name in names if name in found}))
    return nodes[1], nodes[-1]


def _integer_softmax(graph: fx.Graph, source: fx.Node, observer: Observer) -> tuple[fx.Node, fx.Node]:
    observer.calculate_qparams()  # which there are none of, but the operand has to be calibrated
    read = {"scores": source.args[0], "scale": _scale_of(source.args[0], observer)}
    codes = call(graph, log_int_softmax, read | {"qmax": observer.spec.qmax})
    return codes, call(graph, dequantize_log2, {"codes": codes})


def _scale_of(scores: object, observer: Observer) -> fx.Node:
    """Return the scale of quantised scores, to which constants may have been added since."""
    found = dataflow.behind_sums(scores)
    operand = quantized(found)
    if operand is None:
        raise ConfigError(
            f"node {observer.operand!r}: LogIntSoftmax expected quantised scores, to which constants may be added, and found "
            f"{found}, which is not rounded: use Log2"
        )
    refuse_coarse(tensor_of(operand.scale), observer.operand)
    return operand.scale


def _integer_norm(graph: fx.Graph, source: fx.Node, observer: Observer) -> tuple[fx.Node, fx.Node]:
    """Compute the norm that gives `source`, or that `source` selects tokens of, on the codes that it reads."""
    norm, name, spec, params = source, observer.operand, observer.spec, observer.calculate_qparams()
    if source.target is operator.getitem and isinstance(source.args[0], fx.Node):
        norm = source.args[0]
    read = integer_input(graph, norm)
    if isinstance(read, str):
        raise ConfigError(
            f"node {name!r}: an IntegerNorm cannot be computed on integers: {read}; or use a TensorSpec here"
        )
    factor = read_buffer(graph, f"{name}_factor", read.factor)
    zero = read_buffer(graph, f"{name}_input_zero_point", read.zero_point)
    scale = read_buffer(graph, f"{name}_scale", params.scale)
    zero_point = None if params.zero_point is None else read_buffer(graph, f"{name}_zero_point", params.zero_point)
    site = QuantizerSite(read.codes, scale, zero_point, None, None, None, spec.qmin, spec.qmax)
    own = arguments_of(norm)
    normed = {"codes": read.codes, "factor": factor, "zero_point": zero, "qmax_in": read.qmax}
    parameters = {"weight": own["weight"], "bias": own["bias"]} | quantizer_arguments(site, integer_layer_norm)
    codes = call(graph, integer_layer_norm, normed | parameters)
    if source is not norm:
        codes = graph.call_function(operator.getitem, (codes, source.args[1]))
    return codes, dequantize_node(graph, site, codes)


# What is more than the call of two operators, by what the spec is or derives from.
_WRITERS: dict[type, Callable[[fx.Graph, fx.Node, Observer], tuple[fx.Node, fx.Node]]] = {
    Codes: _uniform,
    Float8: float8_operand,
    IntegerNorm: _integer_norm,
    LogIntSoftmax: _integer_softmax,
}


def _restore_dtype(node: fx.Node) -> None:
    """Keep a product's operands in one dtype, and its result in the model's."""
    operands = [a for a in node.args[:2] if isinstance(a, fx.Node)]
    quantized = [o for o in operands if is_quantized(o)]
    dtype = _result_dtype(node)
    if not quantized or dtype is torch.float32:
        return
    graph = node.graph
    if len(quantized) < len(operands):
        for operand in quantized:
            with graph.inserting_before(node):
                node.replace_input_with(operand, graph.call_method("to", (operand, dtype)))
        return
    bias = bias_of(node)
    if isinstance(bias, fx.Node):
        with graph.inserting_before(node):
            set_bias(node, _in_float32(node, bias))
    with graph.inserting_after(node):
        cast = graph.call_method("to", (node, dtype))
    copy_knowledge(cast, node)
    node.replace_all_uses_with(cast, delete_user_cb=lambda user: user is not cast)


def _in_float32(node: fx.Node, bias: fx.Node) -> fx.Node:
    record = record_of(node)
    if bias.target is denoise_bias:  # which is float32
        return bias
    if bias.op == "get_attr" and record is not None:
        return read_buffer(node.graph, f"{record.label}.bias_float32", tensor_of(bias).float())
    return node.graph.call_method("float", (bias,))


def _result_dtype(node: fx.Node) -> torch.dtype:
    """Return the dtype the float model computed `node` in."""
    value = value_of(node)
    if value is not None:
        return value.dtype
    dtype: torch.dtype = model_dtype(node.graph.owning_module)  # type: ignore[arg-type]
    return dtype
