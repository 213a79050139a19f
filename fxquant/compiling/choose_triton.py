"""Measure which int8 linear layers of a graph are slower than float on a GPU, on the device of the graph."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.errors import ConfigError
from fxquant.graph.attributes import tensor_of
from fxquant.graph.meta import known_value, model_dtype, record_of
from fxquant.graph.shapes import propagate_shapes
from fxquant.kernels.cpu import Quantizer
from fxquant.lowering.linear_site import linear_site

MARGIN = 1.02  # the gain below which a layer is not worth the error of its codes
MILLISECONDS = 20  # that each form of a layer is measured for


class Shape(NamedTuple):
    """
    What decides how long a linear layer takes.

    float_dtype: the dtype of the float product that could take its place.
    dtype: the dtype of the result, or of the values that become codes.
    gelu: the approximation of GELU, None for no GELU.
    codes: whether the result is int8 codes.
    twin: whether the input has twin-uniform codes.
    """

    rows: int
    depth: int
    outputs: int
    float_dtype: torch.dtype
    dtype: torch.dtype
    gelu: str | None
    residual: bool
    codes: bool
    twin: bool


def slower_sites(gm: fx.GraphModule, example_inputs: Sequence[Any], margin: float = MARGIN) -> dict[str, str]:
    """
    Return the int8 linear layers that are not `margin` times faster than in float: label -> reason, with both times.

    gm: a converted graph on a CUDA device.
    example_inputs: a batch of the size that will run; its values do not matter.

    Each distinct shape is measured once per process. The int8 kernel is compared with the product in the model's dtype and
    what follows it, as a compiler fuses them. Work before the layer, such as making the codes, is left out on both sides.

    Raises `ConfigError` where the graph is on another kind of device.
    """
    _require_cuda(gm)
    reasons = {}
    for label, shape in linear_shapes(gm, example_inputs).items():
        int8, other = measure(shape)
        if other < margin * int8:
            name = str(shape.float_dtype).removeprefix("torch.")
            reasons[label] = f"int8 does not pay for {shape.rows} rows: {int8:.4f} ms, {name} {other:.4f} ms"
    return reasons


def _require_cuda(gm: fx.GraphModule) -> None:
    devices = {t.device.type for t in (*gm.parameters(), *gm.buffers())}
    if devices != {"cuda"}:
        raise ConfigError(f"expected a graph on a CUDA device, found one on {', '.join(sorted(devices)) or 'none'}")


def linear_shapes(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> dict[str, Shape]:
    """
    Return the shape of each int8 linear layer of `gm` for `example_inputs`, by label. A layer with an affine weight has
    none.
    """
    sized = fx.GraphModule(gm, copy.deepcopy(gm.graph), type(gm).__name__)
    propagate_shapes(sized, example_inputs)
    shapes = {}
    for node in sized.graph.nodes:
        site, record = linear_site(node), record_of(node)
        if site is None or record is None or site.weight_zero_point is not None:
            continue
        codes: Tensor = known_value(site.codes)
        shapes[record.label] = Shape(
            *(math.prod(codes.shape[:-1]), codes.shape[-1], tensor_of(site.scale).shape[0]),
            *(model_dtype(gm), site.dtype, site.gelu),
            *(site.residual is not None, site.quantizer is not None, site.low is not None),
        )
    return shapes


@functools.cache
def measure(shape: Shape) -> tuple[float, float]:
    """Return the milliseconds that a layer takes in int8 and in float, on the current CUDA device."""
    from triton.testing import do_bench_cudagraph

    with torch.no_grad():
        # Recorded, so that what a launch costs the processor does not count: compiled models run from CUDA graphs too.
        int8, other = (do_bench_cudagraph(run, rep=MILLISECONDS) for run in (_int8(shape), _float(shape)))
    return float(int8), float(other)


def _int8(shape: Shape) -> Callable[[], Tensor]:
    from fxquant.kernels.triton import operators

    codes, weight = (_random_codes(n, shape.depth) for n in (shape.rows, shape.outputs))
    scale, bias = torch.full((shape.outputs,), 1e-4, device="cuda"), torch.zeros(shape.outputs, device="cuda")
    residual = _zeros(shape, shape.dtype) if shape.residual else None
    one = torch.tensor(0.1, device="cuda")
    quantizer = Quantizer(one, None, None, None, None, -128, 127) if shape.codes else None
    low = scale if shape.twin else None

    def run() -> Tensor:
        options: dict[str, Any] = {"low": low, "gelu": shape.gelu, "residual": residual, "quantizer": quantizer}
        return operators.linear(codes, weight, scale, bias, shape.dtype, **options)

    run()  # chooses the tile
    return run


def _float(shape: Shape) -> Callable[[], Tensor]:
    dtype = shape.float_dtype
    x, weight = (torch.randn(n, shape.depth, dtype=dtype, device="cuda") for n in (shape.rows, shape.outputs))
    bias = torch.zeros(shape.outputs, dtype=dtype, device="cuda")
    residual = _zeros(shape, shape.dtype) if shape.residual else None

    def compute() -> Tensor:
        y = F.linear(x, weight, bias)
        if shape.gelu is not None:
            y = F.gelu(y, approximate=shape.gelu)
        if residual is not None:
            y = residual + y
        # What reads the codes of a float layer is float too, as a rule, and then a compiler rounds on the way.
        return y.float().div(0.1).round().clamp(-128, 127).mul(0.1).to(dtype) if shape.codes else y

    plain = shape.gelu is None and residual is None and not shape.codes
    run: Callable[[], Tensor] = compute if plain else torch.compile(compute, dynamic=False)
    with torch._dynamo.config.patch(recompile_limit=1000):  # one function for all shapes, each compiled by itself
        run()
    return run


def _random_codes(rows: int, columns: int) -> Tensor:
    return torch.randint(-128, 128, (rows, columns), dtype=torch.int8, device="cuda")


def _zeros(shape: Shape, dtype: torch.dtype) -> Tensor:
    return torch.zeros(shape.rows, shape.outputs, dtype=dtype, device="cuda")
