"""The ONNX graph that is being written: its nodes, constants and names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NoReturn

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx

from fxquant.dialect.vocabulary import readable_name
from fxquant.errors import UnsupportedGraphError
from fxquant.graph.attributes import tensor_of
from fxquant.graph.rewrite import location
from fxquant.numerics.arithmetic import along
from fxquant.onnx_export.node_values import BatchSize, HeadValues, Name, StoredWeight, TokenCodes, TwinValues

TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.int8: TensorProto.INT8,
    torch.uint8: TensorProto.UINT8,
    torch.int32: TensorProto.INT32,
    torch.int64: TensorProto.INT64,
    torch.bool: TensorProto.BOOL,
}
_BOOLEAN = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Not", "IsNaN")
Shape = tuple[int | None, ...]


class Writer:
    """
    Nodes and constants of an ONNX graph, in order.

    A tensor is known by its name. What stands for a node of the fx graph has that node's name, and what is computed on the way
    the name with the operator behind it, such as ``linear.MatMul``. reserved: the names of inputs and outputs; nodes: those of
    the nodes of the graph. node: the one that is being written; result_shape: of it.
    """

    def __init__(self, reserved: Sequence[str], nodes: Sequence[str] = ()) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.node: fx.Node
        self.first = 0  # how many nodes were there before it
        self.result_shape: Shape = ()
        self.of_codes = False  # whether the node gives codes, which are written as the values that they stand for
        self.batch_of: Name | None = None  # an input whose first axis is the batch
        self.names: dict[int, str] = {}  # of the graph's own tensors, by their identity
        self._given = frozenset(reserved)
        self._names = {*reserved, *nodes}
        self._constants: dict[tuple[Any, ...], Name] = {}

    def unique(self, wanted: str) -> str:
        """Return `wanted`, or the first free ``wanted_N``, and keep it."""
        name, count = wanted, 1
        while name in self._names:
            name, count = f"{wanted}_{count}", count + 1
        self._names.add(name)
        return name

    def add(self, operator: str, *inputs: Any, **attributes: Any) -> Name:
        """Add a node of ONNX and return the name of its output; None is no input."""
        return self.add_several(operator, 1, *inputs, **attributes)[0]

    def add_several(self, operator: str, count: int, *inputs: Any, **attributes: Any) -> tuple[Name, ...]:
        """Add a node of ONNX and return the names of its outputs, of which there are `count`."""
        name = self.unique(f"{self.node.name}.{operator}")
        made = [name, *(self.unique(f"{name}_{i}") for i in range(1, count))]
        read = ["" if each is None else self.tensor(each) for each in inputs]
        self.nodes.append(helper.make_node(operator, read, made, name, **attributes))
        if operator in _BOOLEAN:
            self.dtypes[name] = torch.bool
        return tuple(map(Name, made))

    def constant(self, value: Tensor | float | Sequence[int], dtype: torch.dtype | None = None, name: str = "") -> Name:
        """Return the name of a constant, which lies in the file once; name: the wanted one."""
        tensor = value if isinstance(value, Tensor) else torch.tensor(value)
        tensor = tensor.detach().cpu().contiguous()
        tensor = tensor if dtype is None else tensor.to(dtype)
        if tensor.dtype not in TYPES:
            self.refuse(f"a constant of {tensor.dtype} has no place in the file")
        array = tensor.numpy()
        key = (tensor.dtype, tuple(tensor.shape), hashlib.sha256(array.tobytes()).digest())
        if key not in self._constants:
            made = self.unique(name or self.names.get(id(value)) or f"{self.node.name}.constant")
            self.initializers.append(numpy_helper.from_array(array, made))
            self._constants[key] = Name(made)
            self.shapes[made], self.dtypes[made] = tuple(tensor.shape), tensor.dtype
        return self._constants[key]

    def integers(self, *values: int) -> Name:
        """Return the name of a constant ``(n,)`` of int64, such as axes or a shape."""
        return self.constant(torch.tensor(values, dtype=torch.int64))

    def tensor(self, value: Any) -> Name:
        """Return the name of a tensor that holds `value`, which may be any argument."""
        if isinstance(value, Name):
            return value
        if isinstance(value, StoredWeight):
            return self.dequantized(value)
        if isinstance(value, TwinValues):
            return self.add("Add", value.high, value.low)
        if isinstance(value, TokenCodes):
            codes = self.as_float(value.codes)
            if value.zero_point is not None:
                codes = self.add("Sub", codes, self.as_float(value.zero_point))
            return self.add("Mul", codes, value.scale)
        if isinstance(value, HeadValues):
            return self.add("Mul", value.steps, along(value.scale, len(self.shape(value)), value.axis))
        if isinstance(value, BatchSize):
            return self.add("Squeeze", self.sizes((value,)))
        if isinstance(value, Tensor | bool | int | float):
            return self.constant(value)
        return self.refuse(f"expected a tensor or a number, found {value!r:.80}")

    def dequantized(self, weight: StoredWeight) -> Name:
        """Add the DequantizeLinear of a weight and return its name."""
        zero_point = () if weight.zero_point is None else (self.constant(weight.zero_point, torch.int8),)
        along = {} if weight.scale.dim() == 0 else {"axis": weight.axis}
        codes = self.constant(weight.codes, name=weight.name)
        return self.add("DequantizeLinear", codes, self.constant(weight.scale), *zero_point, **along)

    def sizes(self, sizes: Sequence[int | BatchSize]) -> Name:
        """Return the name of int64 ``(n,)`` that holds `sizes`."""
        if all(isinstance(size, int) for size in sizes):
            return self.integers(*sizes)  # type: ignore[arg-type]
        parts = []
        for size in sizes:
            if isinstance(size, int):
                parts.append(self.integers(size))
            elif isinstance(size, BatchSize) and self.batch_of is not None:
                batch = self.add("Shape", self.batch_of, start=0, end=1)
                parts.append(batch if size.times == 1 else self.add("Mul", batch, self.integers(size.times)))
            else:
                self.refuse("a size depends on that of the images: only the batch size may be free in the file")
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=0)

    def begin(self, node: fx.Node, shape: Shape, of_codes: bool) -> None:
        """Begin to write `node`, whose result has this shape."""
        self.node, self.result_shape, self.of_codes, self.first = node, shape, of_codes, len(self.nodes)

    def read(self, value: object) -> Tensor:
        """Return the tensor of the graph that a ``get_attr`` node reads."""
        return tensor_of(value).detach()

    def as_float(self, value: Name) -> Name:
        """Return the name of numbers of another dtype as float32."""
        return self.add("Cast", value, to=TensorProto.FLOAT)

    def shape(self, value: Any) -> Shape:
        """Return the shape of an argument, None for an axis that is not the same in each batch."""
        if isinstance(value, Tensor):
            return tuple(value.shape)
        if isinstance(value, StoredWeight):
            return tuple(value.codes.shape)
        name = value[0] if isinstance(value, TwinValues | TokenCodes | HeadValues) else value
        if not isinstance(name, Name) or name not in self.shapes:
            return self.refuse("the shape of its input is unknown")
        return self.shapes[name]

    def dtype(self, value: Any) -> torch.dtype:
        """Return the dtype of an argument; a number has that of torch's rules, weaker than any tensor."""
        if isinstance(value, Name):
            return self.dtypes.get(value, torch.float32)
        if isinstance(value, Tensor):
            return value.dtype
        if isinstance(value, bool):
            return torch.bool
        return torch.int64 if isinstance(value, int | BatchSize) else torch.float32

    def cast(self, value: Any, dtype: torch.dtype) -> Name:
        """Return the name of an argument in `dtype`."""
        if isinstance(value, Tensor | bool | int | float):
            return self.constant(value, dtype)
        name = self.tensor(value)
        if self.dtype(name) is dtype:
            return name
        if dtype not in TYPES:
            return self.refuse(f"a tensor of {dtype} has no place in the file: export a float32 model")
        made = self.add("Cast", name, to=TYPES[dtype])
        self.dtypes[made] = dtype
        return made

    def result(self, value: Any, shape: Shape | None, dtype: torch.dtype | None) -> Any:
        """Give what stands for the node that was written its name, shape and dtype, and return it."""
        if isinstance(value, TwinValues | HeadValues) and shape is not None:
            self.shapes[value[0]] = shape
        if not isinstance(value, Name):
            return value
        last = self.nodes[-1] if len(self.nodes) > self.first else None
        if last is not None and value in last.output and self.node.name not in self._given:
            last.output[list(last.output).index(value)] = self.node.name
            value = Name(self.node.name)
        if shape is not None and value not in self.shapes:
            self.shapes[value] = shape
        if dtype is not None and value not in self.dtypes:
            self.dtypes[value] = torch.float32 if self.of_codes else dtype
        return value

    def refuse(self, reason: str) -> NoReturn:
        """Raise `UnsupportedGraphError` that names the node and its source line."""
        node = self.node
        what = readable_name(node.target) if node.op in ("call_function", "call_method") else node.op
        raise UnsupportedGraphError(f"node {node.name!r}, {what}{location(node)}, cannot be written to ONNX: {reason}")
