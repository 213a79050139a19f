"""Whether the kernels for GPUs compute what torch's operators do on the same device; `bench.gpu` runs this first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from bench.gpu import operands
from bench.gpu.comparison import RARELY, TILE, differ, one_tile
from bench.gpu.float8_checks import check_float8
from bench.gpu.model_checks import check_float8_models, check_models
from bench.gpu.operands import FLOATS, LAYERS, draw_codes, draw_layer, draw_quantizer, draw_rows
from bench.gpu.operator_checks import check_operators
from fxquant import ops
from fxquant.kernels import float8
from fxquant.kernels.triton import gemm

QUANTIZERS = ("signed", "unsigned", "gelu")


def run_checks() -> str | None:
    """Run every check, one line each; return what is wrong with the first that fails, None where all pass."""
    for name, check in CHECKS.items():
        reason = OBSTACLES.get(name, _nothing)()
        if reason is not None:
            print(f"skipped {name}: {reason}", flush=True)
            continue
        count = 0
        for problem in _with_one_tile(check):
            count += 1
            if problem is not None:
                print(f"FAILED  {name}: {problem}", flush=True)
                return f"{name}: {problem}"
        print(f"ok      {name}: {count} cases", flush=True)
    return None


def check_tiles() -> Iterator[str | None]:
    """Every tile gives the same result."""
    codes, weight, scale, bias = draw_layer(300, 336, 272)
    q = draw_quantizer("signed", None)
    for index in range(len(gemm.CONFIGS)):
        with one_tile(index):
            arguments = (codes, weight, scale, bias, None, None, torch.bfloat16, True)
            yield differ(ops.int8_linear, arguments, f"product, {gemm.CONFIGS[index]}")
    for index in range(6):
        with one_tile(index):
            x = torch.randn(197, 1000, device=operands.DEVICE)
            yield differ(ops.quantize, (x, q.scale, None, q.qmin, q.qmax), f"codes, tile {index}")
            norm = (x, None, None, 1e-6, q.scale, None, q.qmin, q.qmax)
            yield differ(ops.layer_norm_quantize, norm, f"layer norm, tile {index}", RARELY)
            a, b = draw_codes(6, 197, 64), draw_codes(6, 197, 64).mT
            yield differ(ops.int8_matmul, (a, b, scale[0], None, None, torch.bfloat16), f"matmul, tile {index}")


def check_linear() -> Iterator[str | None]:
    """Product, scale, bias and residual give the same bits."""
    for shape, dtype, twin, residual in itertools.product(LAYERS, FLOATS, (False, True), (False, True)):
        codes, weight, scale, bias = draw_layer(*shape)
        added = (torch.randn(shape[0], shape[2], device=operands.DEVICE).to(dtype),) if residual else ()
        if twin:
            function: Any = ops.int8_linear_twin_add if residual else ops.int8_linear_twin
            arguments: tuple[Any, ...] = (codes, weight, scale, scale / 7, bias, *added, dtype, True)
        elif residual:
            function, arguments = ops.int8_linear_add, (codes, weight, scale, bias, *added, dtype, True)
        else:
            function, arguments = ops.int8_linear, (codes, weight, scale, bias, None, None, dtype, True)
        yield differ(function, arguments, f"{shape} {dtype} twin={twin} residual={residual}")


def check_rows() -> Iterator[str | None]:
    """Products of codes with a scale per token give the same bits, and the same codes behind GELU but for its roundings."""
    for shape, dtype, residual in itertools.product(LAYERS, FLOATS, (False, True)):
        layer, rows, case = draw_layer(*shape), draw_rows(shape[0]), f"{shape} {dtype} residual={residual}"
        if residual:
            added = torch.randn(shape[0], shape[2], device=operands.DEVICE).to(dtype)
            yield differ(ops.int8_linear_add, (*layer, added, dtype, True, *rows), case)
        else:
            yield differ(ops.int8_linear, (*layer, None, None, dtype, True, *rows), case)
    for shape, dtype in itertools.product(LAYERS[::3], FLOATS):
        q = draw_quantizer("unsigned", None)
        made = ("none", dtype, True, q.scale, q.zero_point, q.qmin, q.qmax, None)
        arguments = (*draw_layer(*shape), *made, *draw_rows(shape[0]))
        yield differ(ops.int8_linear_gelu_quantize, arguments, f"GELU, {shape} {dtype}", RARELY)


def check_gelu() -> Iterator[str | None]:
    """Codes behind GELU are the same but for roundings of the error function."""
    for shape, dtype, approximate, kind in itertools.product(LAYERS[::3], FLOATS, ("none", "tanh"), QUANTIZERS):
        quantizer = draw_quantizer(kind, shape[2])
        arguments = (*draw_layer(*shape), approximate, dtype, True)
        if quantizer.low is None:
            function: Any = ops.int8_linear_gelu_quantize
            last: tuple[Any, ...] = (
                quantizer.scale,
                quantizer.zero_point,
                quantizer.qmin,
                quantizer.qmax,
                quantizer.noise,
            )
        else:
            function, last = (
                ops.int8_linear_gelu_quantize_twin,
                (quantizer.scale, *quantizer[2:4], *quantizer[5:], quantizer.noise),
            )
        yield differ(function, (*arguments, *last), f"{shape} {dtype} {approximate} {kind}", RARELY)


def check_layer_norm() -> Iterator[str | None]:
    """Codes of layer norms are the same but for roundings."""
    for (rows, width), dtype, noise in itertools.product(
        ((197, 768), (65, 1024), (3137, 96), (7, 50)), FLOATS, (False, True)
    ):
        q = draw_quantizer("unsigned", width if noise else None)
        x = (torch.randn(rows, width, device=operands.DEVICE) * 2 + 1).to(dtype)
        weight, bias = torch.randn(2, width, device=operands.DEVICE).unbind()
        arguments = (x, weight, bias, 1e-6, q.scale, q.zero_point, q.qmin, q.qmax, q.noise)
        yield differ(ops.layer_norm_quantize, arguments, f"{rows} x {width} {dtype} noise={noise}", RARELY)


def check_quantize() -> Iterator[str | None]:
    """Codes are the same, next to every boundary too."""
    for kind, dtype, noise in itertools.product((*QUANTIZERS, "softmax"), FLOATS, (False, True)):
        q = draw_quantizer(kind, 600 if noise else None)
        ties = (torch.arange(-300, 300, device=operands.DEVICE) + 0.5) * q.scale
        near = [ties, ties.nextafter(ties + 1), ties.nextafter(ties - 1), torch.randn(600, device=operands.DEVICE)]
        x = torch.stack(near).to(dtype)
        if q.low is None:
            yield differ(ops.quantize, (x, q.scale, q.zero_point, q.qmin, q.qmax, None, q.noise), f"{kind} {dtype}")
        else:
            yield differ(ops.quantize_twin, (x, q.scale, *q[2:4], *q[5:], q.noise), f"{kind} {dtype}")


def check_matmul() -> Iterator[str | None]:
    """Products of activations give the same bits, whatever the zero points."""
    per_head = torch.randint(-128, 128, (4, 1, 1), dtype=torch.int32, device=operands.DEVICE)
    one = torch.tensor(-7, dtype=torch.int32, device=operands.DEVICE)
    pairs = ((None, None), (one, per_head), (per_head, one))
    for dtype, tokens, (zero_a, zero_b) in itertools.product(FLOATS, (197, 49), pairs):
        q, k, v = draw_codes(2, tokens, 3, 4, 64).permute(2, 0, 3, 1, 4).unbind(0)
        p, scale = draw_codes(2, 4, tokens, tokens), torch.rand(4, 1, 1, device=operands.DEVICE) / 1000
        for a, b in ((q, k.transpose(-2, -1)), (p, v)):
            yield differ(ops.int8_matmul, (a, b, scale, zero_a, zero_b, dtype), f"{tuple(a.shape)} {dtype}")
        yield differ(ops.int8_matmul_twin, (p, v, scale, -scale / 9, zero_b, dtype), f"twin {tuple(p.shape)} {dtype}")


def _with_one_tile(check: Callable[[], Iterator[str | None]]) -> Iterator[str | None]:
    if check in (check_tiles, check_models, check_float8_models):
        yield from check()
    else:
        with one_tile(TILE):
            yield from check()


def _nothing() -> None:
    return None


CHECKS: dict[str, Callable[[], Iterator[str | None]]] = {
    "tiles": check_tiles,
    "linear layers": check_linear,
    "scales per token": check_rows,
    "GELU and codes": check_gelu,
    "layer norm and codes": check_layer_norm,
    "codes": check_quantize,
    "products of activations": check_matmul,
    "operators beside the CPU": check_operators,
    "float8 products": check_float8,
    "models": check_models,
    "models on float8": check_float8_models,
}
# Why a check has nothing to say on this device.
OBSTACLES: dict[str, Callable[[], str | None]] = dict.fromkeys(
    ("float8 products", "models on float8"), lambda: float8.obstacle(0)
)
