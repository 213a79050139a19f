"""Where the time of a graph goes: to products, which int8 speeds up, or to what it cannot speed up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor, fx

from fxquant.graph.calls import operator_name
from fxquant.inspection.time_nodes import time_nodes


class OpClass(str, Enum):
    """The purpose of a node."""

    PRODUCTS = "products"
    QUANTISE = "quantise"
    NORMALISATION = "normalisation"
    ACTIVATION = "activation"
    ATTENTION = "attention"
    REST = "rest"


# The name of a node's function or method -> its class. An operator that fuses several belongs to the one it is named after
# here; whatever is not named is the rest.
CLASSES: dict[OpClass, tuple[str, ...]] = {
    OpClass.PRODUCTS: (
        *("linear", "conv2d", "conv1d", "matmul", "bmm", "mm", "addmm", "baddbmm", "einsum"),
        *("int8_linear", "int8_linear_twin", "int8_matmul", "int8_matmul_twin", "onednn_linear"),
        *("int8_linear_add", "int8_linear_gelu_quantize", "int8_linear_twin_add", "int8_linear_gelu_quantize_twin"),
        *("cpu_gemm", "cpu_gemm_tokens", "float8_linear"),
    ),
    OpClass.QUANTISE: (
        *("quantize", "dequantize", "quantize_twin", "dequantize_twin", "fake_quantize_summed_twin"),
        *("add_noise", "denoise_bias", "pack_twin", "unpack_twin", "cpu_quantize", "quantize_log2", "dequantize_log2"),
        *("quantize_adalog", "fake_quantize_adalog"),
        *("quantize_tokens", "cpu_quantize_tokens", "dequantize_tokens"),
        *("quantize_float8", "quantize_float8_tokens", "dequantize_float8"),
    ),
    OpClass.NORMALISATION: (
        *("layer_norm", "layer_norm_quantize", "cpu_layer_norm_quantize", "integer_layer_norm"),
        *("layer_norm_quantize_tokens", "cpu_layer_norm_quantize_tokens"),
        *("rms_norm", "batch_norm", "group_norm", "instance_norm", "normalize"),
    ),
    OpClass.ACTIVATION: (
        *("gelu", "gelu_quantize", "silu", "relu", "relu6", "sigmoid", "tanh", "hardswish", "quick_gelu", "glu"),
    ),
    # The products inside a fused attention kernel count as attention: int8 does not reach them.
    OpClass.ATTENTION: (
        "softmax",
        "log_softmax",
        "log_int_softmax",
        "scaled_dot_product_attention",
        "attention",
        "attention_quantize",
        "cpu_attention",
    ),
}
_CLASS_OF = {name: op_class for op_class, names in CLASSES.items() for name in names}


@dataclass(frozen=True)
class Profile:
    """Seconds per call by class, and within it by operator, the slowest first."""

    seconds: Mapping[OpClass, float]
    operators: Mapping[OpClass, Mapping[str, float]]

    @property
    def total(self) -> float:
        """The seconds of all nodes together."""
        return sum(self.seconds.values())

    def share(self, op_class: OpClass) -> float:
        """Return the share of the total that a class takes, from 0 to 1."""
        return self.seconds[op_class] / self.total if self.total else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return milliseconds and shares by class."""
        return {
            op_class.value: {
                "ms": round(seconds * 1e3, 4),
                "share": round(self.share(op_class), 4),
                "operators_ms": {name: round(s * 1e3, 4) for name, s in self.operators[op_class].items()},
            }
            for op_class, seconds in self.seconds.items()
        }


def classify(node: fx.Node) -> OpClass:
    """Return the class of a node, by the function that it calls."""
    return _CLASS_OF.get(operator_name(node), OpClass.REST)


def profile_graph(gm: fx.GraphModule, inputs: Sequence[Tensor], rounds: int = 5) -> Profile:
    """
    Run the graph node by node, `rounds` times after a first run that does not count, and return medians.

    The eager graph is timed. A compiler fuses much of what is not a product, so the shares of these classes are an upper
    bound of what there is to gain. An accelerator is synchronised after each node.
    """
    seconds = time_nodes(gm, inputs, rounds)
    return collect_profile((classify(node), operator_name(node), spent) for node, spent in seconds.items())


def collect_profile(found: Iterable[tuple[OpClass, str, float]]) -> Profile:
    """Add up triples of class, operator and seconds."""
    seconds: dict[OpClass, float] = dict.fromkeys(OpClass, 0.0)
    operators: dict[OpClass, dict[str, float]] = {op_class: defaultdict(float) for op_class in OpClass}
    for op_class, name, spent in found:
        seconds[op_class] += spent
        operators[op_class][name] += spent
    ordered = {c: dict(sorted(inner.items(), key=lambda item: -item[1])) for c, inner in operators.items()}
    return Profile(seconds, ordered)
