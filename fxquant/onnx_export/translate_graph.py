"""The nodes of a graph, one by one, as those of ONNX."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from fxquant.graph.calls import arguments_of
from fxquant.graph.dataflow import moves_values
from fxquant.graph.inputs import has_batch
from fxquant.graph.meta import known_value, value_of
from fxquant.graph.shapes import Sizes
from fxquant.onnx_export import (
    write_arithmetic,
    write_guards,
    write_moves,
    write_pooling,
    write_products,
    write_quantizers,
    write_steps,
)
from fxquant.onnx_export.graph_writer import TYPES, Writer
from fxquant.onnx_export.node_values import BatchSize, Name, StoredWeight, TwinValues, UnknownSize, is_constant
from fxquant.ops import dequantize, make_output

BATCH = "batch"
_MOST_FOLDED = 2**14  # elements of a constant that is larger than what it is made of
# What each function and tensor method of the dialect becomes: it is called with the writer and the arguments.
TABLE: dict[Any, Callable[..., Any]] = {
    **write_arithmetic.TABLE,
    **write_moves.TABLE,
    **write_pooling.TABLE,
    **write_products.TABLE,
    **write_quantizers.TABLE,
    **write_steps.TABLE,
    **write_guards.TABLE,
}


def translate(gm: fx.GraphModule, sizes: Sizes, name: str) -> onnx.GraphProto:
    """
    Return the ONNX graph `name` of a graph whose nodes have values; sizes: what is known of its shapes at any batch size.

    Raises `UnsupportedGraphError` naming the first node that ONNX has no operator for.
    """
    nodes = list(gm.graph.nodes)
    inputs = [n for n in nodes if n.op == "placeholder"]
    (output,) = (n for n in nodes if n.op == "output")
    returned = dict(_named_outputs(output.args[0]))
    w = Writer([*(str(n.target) for n in inputs), *returned], [n.name for n in nodes])
    examples = [known_value(n) for n in inputs]
    w.batch_of = next((Name(n.target) for n in inputs if has_batch(known_value(n), examples)), None)
    values: dict[fx.Node, Any] = {}
    for node in nodes[:-1]:
        known = value_of(node)
        shape = sizes.shapes.get(node, ())
        w.begin(node, shape, known is not None and known.dtype is torch.int8)
        value = _value(w, node, values, sizes)
        values[node] = w.result(value, sizes.shapes.get(node), None if known is None else known.dtype)
    w.begin(output, (), False)
    made = [_output(w, each, values[node], sizes.shapes.get(node)) for each, node in returned.items()]
    taken = [_declared(str(n.target), sizes.shapes[n], known_value(n).dtype, w.batch_of is not None) for n in inputs]
    return helper.make_graph(w.nodes, name, taken, made, w.initializers)


def _value(w: Writer, node: fx.Node, values: dict[fx.Node, Any], sizes: Sizes) -> Any:
    """Return what stands for `node`, and write it where it depends on the inputs."""
    if node.op == "placeholder":
        return Name(node.target)
    if node.op == "get_attr":
        tensor = w.read(node)
        w.names[id(tensor)] = str(node.target)
        return tensor
    if node in sizes.constant:
        return sizes.constant[node]
    if node in sizes.varying:
        return _size(sizes.varying[node], sizes.batches)
    return None if node.target is make_output else _called(w, node, values)


def _called(w: Writer, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """Return what a call gives: a constant, or what its row in the table writes."""
    args: Any = map_arg(node.args, lambda n: values[n])
    kwargs: Any = map_arg(node.kwargs, lambda n: values[n])
    if node.target is getattr and isinstance(args[0], Name):
        return _attribute(w, *args)
    if is_constant(args) and is_constant(kwargs) and node.target is not dequantize:
        folded = _folded(node, args, kwargs)
        # A mask that is spread over heads would make the file large, and runtimes compute it once.
        if not isinstance(folded, Tensor) or folded.numel() <= max(_MOST_FOLDED, _count(args)):
            return folded
    if node.target not in TABLE:
        w.refuse("it has no row in the table of operators (fxquant/onnx_export)")
    if args and isinstance(args[0], TwinValues) and moves_values(node):
        return TwinValues(*(TABLE[node.target](w, each, *args[1:], **kwargs) for each in args[0]))
    try:
        return TABLE[node.target](w, *args, **kwargs)
    except TypeError as error:
        return w.refuse(f"its arguments: {error}")


def _folded(node: fx.Node, args: Any, kwargs: Any) -> Any:
    """Return what a node gives whose arguments are constants."""
    args, kwargs = _as_tensors(args), _as_tensors(kwargs)
    with torch.no_grad():
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _count(args: Any) -> int:
    return sum(each.numel() for each in tree_leaves(args) if isinstance(each, Tensor))


def _attribute(w: Writer, x: Name, name: str) -> Any:
    """Return what an attribute of a tensor is; sizes are known where they are read."""
    facts: dict[str, Any] = {"shape": None, "dtype": w.dtype(x), "device": torch.device("cpu")}
    return facts[name] if name in facts else w.refuse(f"the attribute {name!r}")


def _size(found: tuple[int, ...], batches: tuple[int, ...]) -> BatchSize | UnknownSize:
    times = found[0] // batches[0]
    return BatchSize(times) if found == tuple(times * n for n in batches) else UnknownSize()


def _as_tensors(value: Any) -> Any:
    """Return arguments with each stored weight as the tensor that it stands for."""
    if isinstance(value, StoredWeight):
        return value.values()
    if isinstance(value, dict):
        return {key: _as_tensors(each) for key, each in value.items()}
    return [*map(_as_tensors, value)] if isinstance(value, tuple | list) else value


def _named_outputs(value: Any, name: str = "") -> Iterator[tuple[str, fx.Node]]:
    """Yield each tensor that a graph returns with its name: that of a field or a key, else ``output`` and its place."""
    if isinstance(value, fx.Node) and value.target is make_output:
        given = arguments_of(value)
        value = dict(zip(given["fields"], given["values"], strict=True))
    if isinstance(value, fx.Node):
        yield name or "output", value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _named_outputs(each, f"{name}_{key}" if name else str(key))
    elif isinstance(value, tuple | list):
        for index, each in enumerate(value):
            yield from _named_outputs(each, f"{name or 'output'}_{index}")


def _output(w: Writer, name: str, value: Any, shape: tuple[int | None, ...] | None) -> onnx.ValueInfoProto:
    if not isinstance(value, Name | Tensor):
        value = w.tensor(value)
    dtype = w.dtype(value)
    w.nodes.append(helper.make_node("Identity", [w.tensor(value)], [name], f"{name}.Identity"))
    return _declared(name, () if shape is None else shape, dtype, w.batch_of is not None)


def _declared(name: str, shape: tuple[int | None, ...], dtype: torch.dtype, batched: bool) -> onnx.ValueInfoProto:
    sizes = [
        BATCH if n is None and axis == 0 and batched else f"{name}_{axis}" if n is None else n
        for axis, n in enumerate(shape)
    ]
    return helper.make_tensor_value_info(name, TYPES[dtype], sizes)
