"""ONNX files in ONNX Runtime, site by site: the codes that it computes beside those of the graph that was exported."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import onnxruntime
import torch
from onnx import helper
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from fxquant import pipeline
from fxquant.benchmark.competitors.onnx_runtime import products_of_file
from fxquant.graph.calls import arguments_of
from fxquant.graph.stages import Stage
from fxquant.numerics.arithmetic import storage_offset
from fxquant.ops import quantize, quantize_adalog, quantize_tokens, quantize_twin

# What gives the codes of each in the file.
_MAKERS = {
    quantize: "QuantizeLinear",
    quantize_twin: "QuantizeLinear",
    quantize_tokens: "Cast",
    quantize_adalog: "Gather",
}
_CODES = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


class FileAgreement(NamedTuple):
    """
    How a file computes what a graph does.

    sites, codes: how many were compared, each computed from the same codes before it. other: how many of them differ; farthest:
    by how much at most. error: of the outputs, relative, where the graph reads the file's codes. end_to_end, end_error: the
    share of equal codes and the error of the outputs where each engine reads its own codes. products: how many ONNX Runtime
    runs, by dtype.
    """

    sites: int
    codes: int
    other: int
    farthest: int
    error: float
    end_to_end: float
    end_error: float
    products: Counter[str]


def session(model: onnx.ModelProto, optimised: Path | None = None) -> onnxruntime.InferenceSession:
    """Return ONNX Runtime on one thread of the CPU, which writes the graph that it runs to `optimised`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_file(file: Path, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return what ONNX Runtime makes of `inputs`."""
    model = onnx.load(str(file))
    return [torch.from_numpy(y) for y in session(model).run(None, _feed(model, inputs))]


def agreement(gm: fx.GraphModule, file: Path, inputs: Sequence[Tensor]) -> FileAgreement:
    """Compare a converted graph and its `file` on `inputs`."""
    graph = pipeline.run(copy.deepcopy(gm), pipeline.SIMULATE, Stage.QUANTISED)
    model = onnx.load(str(file))
    found = codes_of(model, graph, inputs)
    own, forced = _Forced(graph, {}), _Forced(graph, found)
    with torch.no_grad():
        plain, expected = (_tensors(each.run(*inputs)) for each in (own, forced))
    differences = [(codes - forced.codes[name]).abs() for name, codes in found.items()]
    equal = sum(int((codes == own.codes[name]).sum()) for name, codes in found.items())
    optimised = file.with_suffix(".optimised.onnx")
    outputs = [torch.from_numpy(y) for y in session(model, optimised).run(None, _feed(model, inputs))]
    count = sum(each.numel() for each in differences)
    return FileAgreement(
        sites=len(found),
        codes=count,
        other=sum(int((each > 0).sum()) for each in differences),
        farthest=max(int(each.max()) for each in differences),
        error=relative_error(outputs, expected),
        end_to_end=equal / count,
        end_error=relative_error(outputs, plain),
        products=Counter(dtype for _, dtype in products_of_file(optimised)),
    )


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest relative error of an output; 0 where there is nothing but zeros, as before training."""
    pairs = zip(found, expected, strict=True)
    return max(float((f - e).norm() / e.norm().clamp(min=1e-12)) for f, e in pairs)


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def codes_of(model: onnx.ModelProto, graph: fx.GraphModule, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the codes at each site of a file, as the graph stores them, by the name of the node: each is made an output."""
    nodes = {n.name: n for n in graph.graph.nodes if n.target in _MAKERS}
    dtypes = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    opened, sites = copy.deepcopy(model), list[str]()
    for each in model.graph.node:
        site = each.name.partition(".")[0]
        if site not in nodes or each.op_type != _MAKERS[nodes[site].target]:
            continue
        if each.op_type == "Cast":
            dtype = each.attribute[0].i
        else:  # as the zero point, or the table
            dtype = dtypes.get(each.input[-1] if each.op_type == "QuantizeLinear" else each.input[0])
        if dtype in _CODES:
            sites.append(site)
            opened.graph.output.append(helper.make_tensor_value_info(each.output[0], dtype, None))
    values = session(opened).run(None, _feed(model, inputs))[len(model.graph.output) :]
    found = dict[str, Tensor]()
    for site, value in zip(sites, values, strict=True):
        codes, given = torch.from_numpy(value).int(), arguments_of(nodes[site])
        if nodes[site].target is quantize_twin:
            # Two sites: the second has the negative codes, as positive numbers where bytes are unsigned.
            low = -codes if value.dtype == "uint8" else codes
            found[site] = found[site] + low if site in found else codes
        else:
            signed = given.get("qmin", 0) < 0 or nodes[site].target is quantize_adalog
            shift = 128 * (value.dtype == "uint8") if signed else storage_offset(given["qmax"])
            found[site] = codes - shift
    return found


class _Forced(fx.Interpreter):
    """Run a graph in which every site gives the codes that are known of it, and keep those that it would have given."""

    def __init__(self, graph: fx.GraphModule, known: dict[str, Tensor]) -> None:
        super().__init__(graph)
        self.known, self.codes = known, dict[str, Tensor]()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.target not in _MAKERS:
            return result
        several = isinstance(result, tuple)
        self.codes[n.name] = (result[0] if several else result).int()
        if n.name not in self.known:
            return result
        codes = self.known[n.name].to(torch.int8)
        return (codes, *result[1:]) if several else codes


def _feed(model: onnx.ModelProto, inputs: Sequence[Tensor]) -> dict[str, Any]:
    return {taken.name: x.numpy() for taken, x in zip(model.graph.input, inputs, strict=True)}
