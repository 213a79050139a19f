"""One reading of every operator that makes codes of one or two scales, or reads them; and the way back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from fxquant.graph.attributes import tensor_of
from fxquant.graph.calls import arguments_of, call, parameters
from fxquant.graph.dataflow import moves_values
from fxquant.kernels.cpu.schemas import KERNELS
from fxquant.kernels.quantizer import Quantizer
from fxquant.ops import (
    attention_quantize,
    dequantize,
    dequantize_twin,
    extract_patches,
    int8_linear_gelu_quantize,
    int8_linear_gelu_quantize_twin,
    integer_layer_norm,
    layer_norm_quantize,
    quantize,
    quantize_twin,
)


@dataclass(frozen=True)
class QuantizerSite:
    """
    How a node makes codes, or reads them; None for an argument that its operator does not have.

    source: the values that `quantize` turns into codes, or the codes that `dequantize` reads. An operator that computes the
    values itself has its first argument here, such as the queries of `attention_quantize`.
    scale: float32, of uniform codes, or of the high range of twin-uniform ones; low: of their low range; split: where the
    ranges part. scale and zero_point are 0-dim, or have one entry per index of `axis`; axis: None for one scale. noise: what
    is added to the values first, ``(C,)`` or ``(C, kh, kw)``. qmin, qmax: the smallest and the largest code.
    """

    source: Any
    scale: fx.Node
    zero_point: fx.Node | None
    low: fx.Node | None
    split: fx.Node | None
    noise: fx.Node | None
    qmin: int
    qmax: int
    axis: int | None = None

    @property
    def codes(self) -> fx.Node:
        """The source, where it is codes."""
        node: fx.Node = self.source
        return node

    @property
    def scales(self) -> tuple[fx.Node, ...]:
        """The one scale of uniform codes, or both of twin-uniform ones."""
        return (self.scale,) if self.low is None else (self.scale, self.low)

    @property
    def steps(self) -> tuple[Any, ...]:
        """The fields of `fxquant.kernels.quantizer.Quantizer`, as nodes."""
        return tuple(getattr(self, field) for field in Quantizer._fields)

    def noise_per_patch(self) -> bool:
        """Say whether there is noise of the shape of a patch ``(C, kh, kw)``, not one value per channel ``(C,)``."""
        return self.noise is not None and tensor_of(self.noise).dim() != 1

    def undoes(self, other: QuantizerSite) -> bool:
        """Say whether this reads codes as `other` makes them: noise aside, which is added and not taken off."""
        return replace(self, source=None, noise=None) == replace(other, source=None, noise=None)


_FIELDS = ("scale", "zero_point", "low", "split", "noise", "qmin", "qmax", "axis")
_IN_KERNEL = {field: f"q_{field}" for field in _FIELDS[:5]}
# How an operator calls what the site calls otherwise.
_NAMES: dict[Any, dict[str, str]] = {
    quantize: {"source": "x"},
    quantize_twin: {"source": "x", "scale": "high"},
    dequantize: {"source": "codes"},
    dequantize_twin: {"source": "codes", "scale": "high"},
    layer_norm_quantize: {"source": "x"},
    integer_layer_norm: {"source": "codes", "zero_point": "output_zero_point"},
    attention_quantize: {"source": "q"},
    int8_linear_gelu_quantize: {"source": "codes", "scale": "out_scale", "zero_point": "out_zero_point"},
    int8_linear_gelu_quantize_twin: {"source": "codes", "scale": "high"},
    KERNELS.cpu_quantize.default: {"source": "x"},
    KERNELS.cpu_layer_norm_quantize.default: {"source": "x"},
    KERNELS.cpu_attention.default: {"source": "q", "scale": "q_scale", "zero_point": "q_zero_point"},
    KERNELS.cpu_gemm.default: {"source": "codes", **_IN_KERNEL},
}


def quantizer_site(node: object) -> QuantizerSite | None:
    """
    Return how `node` quantises or dequantises, None for any other node or value.

    Powers of two have no scale, so that `quantize_log2`, `log_int_softmax` and `dequantize_log2` are none.
    """
    if not isinstance(node, fx.Node) or node.target not in _NAMES:
        return None
    given, names = arguments_of(node), _NAMES[node.target]
    site = QuantizerSite(*(given.get(names.get(field, field)) for field in ("source", *_FIELDS)))  # type: ignore[arg-type]
    return None if site.scale is None else site  # a kernel that may leave its result float


def quantizer_behind(codes: object) -> QuantizerSite | None:
    """Return how `codes` were made, behind patches and moves; None where nothing in the graph makes them."""
    return quantizer_site(maker_behind(codes))


def maker_behind(codes: object) -> object:
    """Return the node that gives `codes`, behind patches and moves."""
    while isinstance(codes, fx.Node) and (codes.target is extract_patches or moves_values(codes)):
        codes = arguments_of(codes)["codes"] if codes.target is extract_patches else codes.args[0]
    return codes


def quantizer_arguments(site: QuantizerSite, target: Any) -> dict[str, Any]:
    """
    Return what `target` is told of `site`, by the names of its arguments; its source is left to the caller.

    Raises `ValueError` where `target` has no place for a step of `site`, such as a scale per index.
    """
    names, known = _NAMES[target], parameters(target)
    arguments = {}
    for field in _FIELDS:
        name, value = names.get(field, field), getattr(site, field)
        if name in known:
            arguments[name] = value
        elif value is not None:
            raise ValueError(f"{target} has no argument for the {field} of a quantiser")
    return arguments


def quantize_node(graph: fx.Graph, site: QuantizerSite, spelled_out: bool = False) -> fx.Node:
    """Build `quantize`, or `quantize_twin`, of the source of `site`; spelled_out: with arguments that have their default."""
    return _build(graph, quantize if site.low is None else quantize_twin, site, spelled_out)


def dequantize_node(graph: fx.Graph, site: QuantizerSite, codes: Any = None) -> fx.Node:
    """Build `dequantize`, or `dequantize_twin`, of `codes` that `site` made; None: of its source, which holds codes."""
    site = replace(site, source=site.source if codes is None else codes, noise=None)
    return _build(graph, dequantize if site.low is None else dequantize_twin, site)


def _build(graph: fx.Graph, target: Any, site: QuantizerSite, spelled_out: bool = False) -> fx.Node:
    arguments = {_NAMES[target]["source"]: site.source} | quantizer_arguments(site, target)
    return call(graph, target, arguments, spelled_out)
