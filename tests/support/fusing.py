"""
The contract of fusion: at every fused node, equal inputs give the codes of the separate operators.

Each node of the fused graph is fed with what it reads in a run on torch's own operators, and run on the kernels of the device.
What has no float function in between must give the same bits: quantisers, products, sums with a residual. Behind GELU, layer
norm and attention a code may differ where the value before rounding is next to a boundary: see `tests.kernels.cpu`.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx

from fxquant import QuantConfig
from fxquant.kernels import use_backend
from fxquant.ops import (
    attention_quantize,
    int8_linear_gelu_quantize,
    int8_linear_gelu_quantize_twin,
    layer_norm_quantize,
)
from tests.support.contract import calibrated

# Share of the codes that may sit next to a boundary, and by how many steps they may be off.
ROUNDED: dict[Any, tuple[float, int]] = {
    layer_norm_quantize: (0.002, 1),
    int8_linear_gelu_quantize: (0.002, 1),
    int8_linear_gelu_quantize_twin: (0.01, 1),  # its steps are small
    attention_quantize: (0.002, 1),
}


class Recorder(fx.Interpreter):
    """Run a graph on torch's own operators, keep every value, and run each node once more on the kernels of the device."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm, garbage_collect_values=False)
        self.by_kernels: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_function":
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            function: Any = n.target
            with use_backend("auto"):
                self.by_kernels[n] = function(*args, **kwargs)
        with use_backend("aten"):
            return super().run_node(n)


def check_nodes(fused: fx.GraphModule, x: Tensor) -> set[Any]:
    """Compare every node on the kernels with itself on torch's operators; return the functions that were compared."""
    run = Recorder(fused)
    with torch.no_grad():
        run.run(x)
    compared = set()
    for node, found in run.by_kernels.items():
        expected = run.env[node]
        if not isinstance(found, Tensor) or found.numel() == 0:
            continue
        compared.add(node.target)
        assert found.dtype is expected.dtype, node.name
        assert found.shape == expected.shape, node.name
        share, steps = ROUNDED.get(node.target, (0.0, 0))
        if node.target is attention_quantize and x.dtype is torch.bfloat16:
            share, steps = 0.5, 3  # torch rounds its scores to bfloat16
        if share == 0:
            assert torch.equal(found, expected), node.name
        else:
            difference = (found.int() - expected.int()).abs()
            assert int(difference.max()) <= steps, node.name
            assert int((difference > 0).sum()) <= 2 + share * difference.numel(), node.name
    return compared


def prepared_model(model: Any, config: QuantConfig, x: Tensor) -> fx.GraphModule:
    """Return a copy of `model` in the dtype of `x`, calibrated on it."""
    return calibrated(copy.deepcopy(model).to(x.dtype), config, x)
