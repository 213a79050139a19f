"""Compute what is not int8 in another float dtype."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph import dataflow
from fxquant.graph.meta import model_dtype, set_model_dtype, value_of
from fxquant.graph.rewrite import edit
from fxquant.graph.shapes import propagate_shapes


@dataclass(frozen=True)
class CastFloats:
    """
    Cast parameters, constants and inputs to `dtype`, and outputs back to what they were.

    Before:  x: float32; y = layer_norm(x, (C,), gamma, beta); return y                 # gamma, beta: float32
    Becomes: z = x.to(bfloat16); y = layer_norm(z, (C,), gamma, beta); return y.to(float32)   # gamma, beta: bfloat16

    Without example inputs the dtype of the model's parameters stands for that of its inputs and outputs.
    """

    dtype: torch.dtype

    def __call__(self, gm: fx.GraphModule) -> PassResult:
        """Run the pass."""
        before = model_dtype(gm)
        result = edit(gm, lambda module: before is not self.dtype and self._cast(module, before))
        inputs = [value_of(n) for n in gm.graph.nodes if n.op == "placeholder"]
        examples = [value for value in inputs if value is not None]
        if result.modified and len(examples) == len(inputs):
            device = next((t.device for t in (*gm.parameters(), *gm.buffers())), torch.device("cpu"))
            propagate_shapes(gm, [torch.empty_like(value, device=device) for value in examples])
        return result

    def _cast(self, gm: fx.GraphModule, before: torch.dtype) -> bool:
        gm.to(self.dtype)
        set_model_dtype(gm, self.dtype)
        for node in list(gm.graph.nodes):
            if node.op == "placeholder" and _dtype(node, before).is_floating_point:
                with gm.graph.inserting_after(node):
                    cast = gm.graph.call_method("to", (node, self.dtype))
                node.replace_all_uses_with(cast, delete_user_cb=lambda user, cast=cast: user is not cast)
        for reader, value in dataflow.returned(gm.graph):
            dtype = _dtype(value, before)
            if dtype.is_floating_point:
                with gm.graph.inserting_before(reader):
                    reader.replace_input_with(value, gm.graph.call_method("to", (value, dtype)))
        return True


def _dtype(node: fx.Node, default: torch.dtype) -> torch.dtype:
    value = value_of(node)
    return value.dtype if value is not None else default
