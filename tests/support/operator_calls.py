"""A call of every operator of fxquant, and what it has to give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import fxquant.ops
from fxquant import ops
from fxquant.errors import InputError
from fxquant.kernels import use_backend
from fxquant.kernels.activation_table import gelu_table
from fxquant.numerics.learned_step import fake_quantize_learned, initial_weight_scales
from fxquant.training.regulariser import _Variation
from tests.support.cpu_operands import make_codes, make_quantizer

FUNCTIONS = {
    name: getattr(fxquant.ops, name) for name in fxquant.ops.__all__ if name not in ("check_input", "make_output")
}
FLOAT8 = torch.float8_e4m3fn
NO_QUANTIZER = (None, None, None, None, None, 0, 0)


class Call(NamedTuple):
    """Arguments of an operator, and the same computed by torch's own operators; None: it is one of these itself."""

    args: tuple[Any, ...]
    reference: Callable[..., Any] | None = None


def registered() -> set[str]:
    """Return the names of all operators that are registered now."""
    names = torch._C._dispatch_get_all_op_names()
    return {name.partition("::")[2].partition(".")[0] for name in names if name.startswith("fxquant::")}


def _int32(*values: int) -> Tensor:
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.int32)


def cpu_calls() -> dict[str, Call]:
    """Return calls of the operators that are registered without Triton."""
    g = torch.Generator().manual_seed(0)
    codes, weight = make_codes(g, 2, 3, 8), make_codes(g, 24, 16)
    scale, bias, x = (
        torch.rand(20, generator=g) / 3000,
        torch.randn(20, generator=g),
        torch.randn(2, 3, 20, generator=g),
    )
    packed, compensation = _pack(weight, 20, 8)
    product = (codes, packed, compensation, scale)
    affine, twin = make_quantizer(g, 20, 8, "unsigned", True), make_quantizer(g, 20, 8, "twin", True)
    heads = torch.randn(3, 4, 2, 5, 16, generator=g).unbind()
    added = torch.randn(2, 2, 5, 5, generator=g).unbind()
    one = make_quantizer(g, 32, 8, "unsigned", True)
    table = gelu_table("none").clone()
    per_row = (torch.rand(2, 3, generator=g), torch.arange(6, dtype=torch.int32).view(2, 3))
    limits = torch.tensor([[-8.0] * 2, [7.0] * 2])
    steps, pair = torch.randn(2, 3, 20, generator=g), torch.rand(2, generator=g) + 0.1
    return {
        "check_values": Call((torch.randn(4, 3, generator=g), -3.0, 3.0, "x", False, True), _check_values),
        "cpu_pack": Call((weight, 20, 8), _pack),
        "cpu_gemm": Call((*product, None, bias, None, x, *NO_QUANTIZER, False), _gemm),
        "cpu_gemm of twin codes": Call(
            (*product, scale * 2, bias, table, None, *NO_QUANTIZER, True, None, None), _gemm
        ),
        "cpu_gemm to codes": Call((*product, None, bias, table, None, *affine, False), _gemm),
        "cpu_gemm to twin codes": Call((*product, None, bias, None, None, *twin, False), _gemm),
        "cpu_gemm of rows with their own scales": Call(
            (*product, None, bias, table, None, *affine, False, *per_row), _gemm
        ),
        "cpu_gemm_tokens": Call((*product, None, bias, None, False, 0, 255, False), _gemm_tokens),
        "cpu_gemm_tokens of twin codes": Call(
            (*product, scale * 2, bias, None, False, 0, 255, True, None, None), _gemm_tokens
        ),
        "cpu_gemm_tokens of rows with their own scales": Call(
            (*product, None, bias, None, True, -7, 7, False, *per_row), _gemm_tokens
        ),
        "cpu_layer_norm_quantize_tokens": Call(
            (x, scale * 3000, bias, 1e-6, False, 0, 255), lambda *args: ops.layer_norm_quantize_tokens(*args)
        ),
        "cpu_quantize_tokens": Call((x, False, 0, 255), lambda *args: ops.quantize_tokens(*args)),
        "cpu_quantize_tokens to symmetric codes": Call(
            (x.bfloat16(), True, -7, 7), lambda *args: ops.quantize_tokens(*args)
        ),
        "cpu_layer_norm_quantize": Call(
            (x, scale * 3000, bias, 1e-6, affine.scale, affine.zero_point, 0, 255, affine.noise),
            lambda x, w, b, e, s, z, qmin, qmax, n: ops.layer_norm_quantize(x, w, b, e, s, z, qmin, qmax, n),
        ),
        "cpu_quantize": Call((x, affine.scale, affine.zero_point, None, None, 0, 255, affine.noise), _quantize),
        "cpu_quantize to twin codes": Call((x, twin.scale, None, twin.low, twin.split, -127, 127, None), _quantize),
        "cpu_attention": Call((*heads, 0.25, *added, one.scale, one.zero_point, 0, 255, one.noise), _attention),
        "cpu_attention to float": Call((*heads, 0.25, *added, None, None, 0, 0, None), _attention),
        "cpu_learned_step": Call((steps, pair[:1], None, None, -8.0, 7.0, -1), _learned_step),
        "cpu_learned_step of groups": Call((steps, pair, pair.round(), limits, 0.0, 0.0, 0), _learned_step),
        "cpu_learned_step_backward": Call((x, steps, pair, pair.round(), limits, 0.0, 0.0, 0), _learned_step_backward),
        "cpu_variation": Call((steps, pair[:1], None, -8.0, 7.0, False), _variation),
        "cpu_variation of groups": Call((steps, pair, limits, 0.0, 0.0, True), _variation),
        "cpu_weight_scales": Call((steps, torch.tensor([2, 4, 8]), 1e-5, 10_000), _weight_scales),
        "batched_int_mm": Call(
            (make_codes(g, 2, 3, 4), make_codes(g, 2, 4, 5)), lambda a, b: (a.long() @ b.long()).to(torch.int32)
        ),
        "interpolate_scaled": Call((torch.randn(1, 2, 4, 3, generator=g), 1.5, 2.1, "bicubic", False), _interpolate),
    }


def triton_calls() -> dict[str, Call]:
    """Return calls of the operators in Triton."""
    g = torch.Generator().manual_seed(0)
    codes, weight = make_codes(g, 2, 3, 8), make_codes(g, 24, 8)
    scale, bias, x = (
        torch.rand(20, generator=g) / 3000,
        torch.randn(20, generator=g),
        torch.randn(2, 3, 20, generator=g),
    )
    affine, twin = make_quantizer(g, 20, 8, "unsigned", True), make_quantizer(g, 20, 8, "twin", True)
    per_row = (torch.rand(2, 3, generator=g), torch.arange(6, dtype=torch.int32).view(2, 3))
    heads = (torch.rand(2, 1, 1, generator=g), torch.rand(2, 1, 1, generator=g))
    return {
        "triton_linear": Call((codes, weight, scale, None, bias, x, None, torch.float32, *NO_QUANTIZER), _linear),
        "triton_linear to codes": Call(
            (codes, weight, scale, scale * 2, bias, None, "none", torch.float32, *affine), _linear
        ),
        "triton_linear of rows with their own scales": Call(
            (codes, weight, scale, None, bias, x, None, torch.float32, *NO_QUANTIZER, *per_row), _linear
        ),
        "triton_layer_norm_quantize": Call(
            (x, scale * 3000, bias, 1e-6, affine.scale, affine.zero_point, affine.noise, 0, 255),
            lambda x, w, b, e, s, z, n, qmin, qmax: ops.layer_norm_quantize(x, w, b, e, s, z, qmin, qmax, n),
        ),
        "triton_quantize": Call((x, *affine), _triton_quantize),
        "triton_quantize to twin codes": Call((x, *twin), _triton_quantize),
        "triton_matmul": Call(
            (make_codes(g, 2, 2, 3, 4), make_codes(g, 2, 2, 4, 3), heads[0], None, _int32(3), None, torch.float32),
            _matmul,
        ),
        "triton_matmul of twin codes": Call(
            (make_codes(g, 2, 2, 3, 4), make_codes(g, 2, 2, 4, 3), *heads, None, _int32(3), torch.float32), _matmul
        ),
    }


def function_calls() -> dict[str, Call]:
    """Return calls of the functions of `fxquant.ops`."""
    g = torch.Generator().manual_seed(0)
    codes, weight = make_codes(g, 2, 18, 8), make_codes(g, 24, 8)
    scale, bias = torch.rand(20, generator=g) / 3000, torch.randn(20, generator=g)
    x, zero, ranged = torch.randn(2, 18, 20, generator=g), _int32(3), (-128, 127)
    one, noise = torch.tensor(0.05), torch.rand(20, generator=g) / 10
    twin = (one, -one / 100, one * 3, -127, 127)
    heads = torch.randn(3, 4, 2, 5, 16, generator=g).unbind()
    added = torch.randn(2, 2, 5, 5, generator=g).unbind()
    linear, options = (codes, weight, scale, bias), (torch.float32, False)
    a, b, per_head = make_codes(g, 3, 2, 4, 5), make_codes(g, 3, 2, 5, 6), torch.rand(2, 1, 1, generator=g)
    image, kernel = make_codes(g, 2, 3, 6, 6), torch.rand(3, 2, 2, generator=g)
    rows = make_codes(g, 2, 3, 20)
    per_row = (torch.rand(2, 3, generator=g), torch.arange(6, dtype=torch.int32).view(2, 3))
    e4m3, weight8 = torch.randn(2, 18, 20, generator=g).to(FLOAT8), torch.randn(32, 32, generator=g).to(FLOAT8)
    linear8, row8 = (e4m3, weight8, scale, bias, torch.float32), torch.rand(2, 18, 1, generator=g)
    rowed = (torch.rand(2, 18, generator=g), torch.arange(36, dtype=torch.int32).view(2, 18))
    calls = {
        "add_noise": (x, noise),
        "add_noise to an image": (image.float(), kernel),
        "attention": (*heads, 0.25, *added),
        "attention_quantize": (*heads, 0.25, *added, one, zero, 0, 255, torch.rand(32, generator=g)),
        "check_values": (torch.randn(4, 3, generator=g), -3.0, 3.0, "x", False, True),
        "mark_invalid": (torch.randn(4, 3, generator=g), torch.zeros(4), True),
        "denoise_bias": (bias, torch.rand(8, generator=g), torch.rand(20, 8, generator=g)),
        "dequantize": (rows, one, zero, *ranged),
        "dequantize along an axis": (rows, torch.rand(20, generator=g), None, *ranged, -1),
        "dequantize_float8": (e4m3, one),
        "dequantize_float8 along an axis": (e4m3, torch.rand(20, generator=g), 2),
        "dequantize_float8 of rows": (e4m3, row8),
        "dequantize_log2": (rows.clamp(-1, 15),),
        "dequantize_tokens": (rows, *per_row),
        "dequantize_twin": (rows, *twin),
        "extract_patches of float8 codes": (image.float().to(FLOAT8), (2, 2), (2, 2), (1, 1), None, 127),
        "extract_patches": (image, (2, 2), (2, 2), (1, 1), zero, 255),
        "fake_quantize_adalog": (x, one, one, torch.rand(17, generator=g), 0.2),
        "fake_quantize_summed_twin": (torch.rand(3, 5, generator=g), torch.tensor(0.25), 127),
        "float8_linear": linear8,
        "float8_linear in bfloat16": (*linear8[:4], torch.bfloat16),
        "float8_linear of rows with their own scales": (*linear8, row8),
        "int8_linear": (*linear, None, None, *options),
        "int8_linear of an affine weight": (*linear, torch.arange(20, dtype=torch.int32), zero, *options),
        "int8_linear of rows with their own scales": (*linear, None, None, *options, *rowed),
        "int8_linear_add": (*linear, x, *options),
        "int8_linear_add to rows with their own scales": (*linear, x, *options, *rowed),
        "int8_linear_gelu_quantize": (*linear, "none", *options, one, zero, 0, 255, noise),
        "int8_linear_gelu_quantize of rows with their own scales": (
            *(*linear, "none", *options, one, zero, 0, 255, None),
            *rowed,
        ),
        "int8_linear_gelu_quantize_twin": (*linear, "none", *options, *twin, noise),
        "int8_linear_twin": (codes, weight, scale, scale * 2, bias, *options),
        "int8_linear_twin_add": (codes, weight, scale, scale * 2, bias, x, *options),
        "int8_matmul": (a, b, per_head, zero, None, torch.float32),
        "int8_matmul_twin": (a, b, per_head, per_head * 2, zero, torch.float32),
        "integer_layer_norm": (
            rows,
            _int32(*[1, 2] * 10),
            zero,
            127,
            torch.rand(20, generator=g),
            bias,
            one,
            zero,
            *ranged,
        ),
        "interpolate_scaled": (torch.randn(1, 2, 4, 3, generator=g), 1.5, 2.1, "bicubic", False),
        "layer_norm_quantize": (x, scale * 3000, bias, 1e-6, one, zero, 0, 255, noise),
        "layer_norm_quantize_tokens": (x, scale * 3000, bias, 1e-6, False, 0, 255),
        "log_int_softmax": (torch.randn(2, 3, 4, 5, generator=g), torch.rand(3, generator=g) / 10, 15),
        "pack_twin": (rows.clamp(min=-127),),
        "quantize": (x, one, zero, 0, 255, None, noise),
        "quantize along an axis": (x, torch.rand(20, generator=g), torch.arange(20, dtype=torch.int32), *ranged, 2),
        "quantize_adalog": (x, one, one, make_codes(g, 17), 0.2),
        "quantize_float8": (x, one),
        "quantize_float8 along an axis": (x, torch.rand(20, generator=g), -1),
        "quantize_float8_tokens": (x,),
        "quantize_log2": (torch.rand(3, 5, generator=g), 15),
        "quantize_tokens": (x, False, 0, 255),
        "quantize_tokens to symmetric codes": (x.bfloat16(), True, -7, 7),
        "quantize_twin": (x, *twin, noise),
        "unpack_twin": (rows.view(torch.uint8),),
    }
    return {name: Call(args) for name, args in calls.items()}


def _check_values(x: Tensor, low: Any, high: Any, name: str, refuse: bool, batched: bool) -> Tensor:
    zeros = x.float() * 0
    return zeros.reshape(len(x), x[:1].numel()).sum(1) if batched else zeros.sum()


def _pack(weight: Tensor, outputs: int, depth: int) -> tuple[Tensor, Tensor]:
    rows = F.pad(weight[:outputs, :depth], (0, 0, 0, -outputs % 16))
    panels = [p.view(len(p), -1, 4).transpose(0, 1).flatten() for p in rows.split(64)]
    return torch.cat(panels), -128 * rows.sum(1, dtype=torch.int32)


def _gemm(
    codes: Tensor, packed: Tensor, compensation: Tensor, scale: Tensor, low: Any, bias: Tensor, table: Any, *rest: Any
) -> Tensor | None:
    residual, *quantizer, bfloat16 = rest[:9]
    row_scale, row_zero = rest[9:] or (None, None)
    if table is not None and not torch.equal(table, gelu_table("none")):
        return None  # another function
    depth, outputs = codes.shape[-1], len(scale)
    panels = [p.view(depth // 4, -1, 4).transpose(0, 1).reshape(-1, depth) for p in packed.split(64 * depth)]
    weight = torch.cat(panels)[:outputs].double()
    x = codes.double()
    if low is None:
        acc = x @ weight.T + compensation[:outputs] + 128 * weight.sum(1)
        sums = compensation[:outputs] // -128  # of the weight, as the kernel has them
        y = (acc if row_zero is None else acc - row_zero[..., None] * sums).float() * scale
        y = y if row_scale is None else y * row_scale[..., None]
    else:
        y = (x.clamp(min=0) @ weight.T).float() * scale + (x.clamp(max=0) @ weight.T).float() * low
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    y = (y + bias).to(dtype)
    y = y if table is None else F.gelu(y)
    y = y if residual is None else residual.to(y.dtype) + y
    return y if quantizer[0] is None else _triton_quantize(y, *quantizer)


def _gemm_tokens(*args: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    product, (symmetric, qmin, qmax, bfloat16), rows = args[:7], args[7:11], args[11:]
    y = _gemm(*product, None, *NO_QUANTIZER, bfloat16, *rows)
    return None if y is None else ops.quantize_tokens(y, symmetric, qmin, qmax)


def _quantize(
    x: Tensor, scale: Tensor, zero: Tensor | None, low: Any, split: Any, qmin: int, qmax: int, noise: Tensor | None
) -> Tensor:
    if low is None and split is None:
        return ops.quantize(x, scale, zero, qmin, qmax, None, noise)
    assert zero is None
    return ops.quantize_twin(x, scale, low, split, qmin, qmax, noise)


def _triton_quantize(
    x: Tensor, scale: Tensor, zero: Tensor | None, low: Any, split: Any, noise: Tensor | None, qmin: int, qmax: int
) -> Tensor:
    return _quantize(x, scale, zero, low, split, qmin, qmax, noise)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, factor: float, bias: Any, mask: Any, scale: Any, zero: Any, *rest: Any
) -> Tensor:
    qmin, qmax, noise = rest
    if scale is not None:
        return ops.attention_quantize(q, k, v, factor, bias, mask, scale, zero, qmin, qmax, noise)
    scores = (q @ k.mT).float() * factor + (0 if bias is None else bias)
    if mask is not None:
        scores = scores + mask.repeat(len(q) // len(mask), 1, 1)[:, None]
    return (scores.softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)


def _placed(values: Tensor | None, x: Tensor, axis: int) -> Tensor | None:
    return None if values is None else values.view(-1, *(1,) * (x.dim() - 1 - axis)) if axis >= 0 else values.view(())


def _bounds(limits: Tensor | None, low: float, high: float, x: Tensor, axis: int) -> list[Any]:
    return [low, high] if limits is None else [_placed(limit, x, axis) for limit in limits]


def _learned_step(x: Tensor, scale: Tensor, zero: Any, limits: Any, low: float, high: float, axis: int) -> Tensor:
    values = (_placed(scale, x, axis), _placed(zero, x, axis), *_bounds(limits, low, high, x, axis))
    return fake_quantize_learned(x, *values)  # type: ignore[arg-type]


def _learned_step_backward(
    gradient: Tensor, x: Tensor, scale: Tensor, zero: Any, limits: Any, low: float, high: float, axis: int
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x, scale = x.detach().requires_grad_(), scale.detach().requires_grad_()
        zero = None if zero is None else zero.detach().requires_grad_()
        limits = None if limits is None else limits.detach().requires_grad_()
        y = _learned_step(x, scale, zero, limits, low, high, axis)
        learned = [t for t in (x, scale, zero, limits) if t is not None]
        found = dict(zip(map(id, learned), torch.autograd.grad(y, learned, gradient), strict=True))
    nothing = torch.zeros_like(scale)
    bounds = found[id(limits)] if limits is not None else torch.zeros(2, len(scale))
    return found[id(x)], torch.stack((found[id(scale)], found.get(id(zero), nothing), *bounds))


def _variation(
    weight: Tensor, scale: Tensor, limits: Any, low: float, high: float, published: bool
) -> tuple[Tensor, Tensor, Tensor]:
    axis = -1 if len(scale) == 1 else 0
    bounds = _bounds(limits, low, high, weight, axis)
    with torch.enable_grad():
        weight, scale = weight.detach().requires_grad_(), scale.detach().requires_grad_()
        value = _Variation.apply(weight, _placed(scale, weight, axis), *bounds, published)
        return value.detach(), *torch.autograd.grad(value, (weight, scale))


def _weight_scales(weight: Tensor, widths: Tensor, tolerance: float, rounds: int) -> Tensor | None:
    if (tolerance, rounds) != (1e-5, 10_000) or widths.numel() == 0:
        return None  # torch's search has these alone
    return initial_weight_scales(weight, tuple(widths.tolist()))


def _interpolate(x: Tensor, height: float, width: float, mode: str, antialias: bool) -> Tensor:
    return F.interpolate(x, scale_factor=(height, width), mode=mode, antialias=antialias)


def _linear(
    codes: Tensor, weight: Tensor, scale: Tensor, low: Any, bias: Tensor, residual: Any, gelu: Any, *rest: Any
) -> Tensor:
    dtype, *quantizer = rest[:8]
    rows = rest[8:] or (None, None)
    if low is None:
        y = ops.int8_linear(codes, weight, scale, bias, None, None, dtype, False, *rows)
    elif rows != (None, None):
        raise InputError("twin-uniform codes have one scale")
    else:
        y = ops.int8_linear_twin(codes, weight, scale, low, bias, dtype, False)
    y = y if gelu is None else F.gelu(y, approximate=gelu)
    y = y if residual is None else residual.to(y.dtype) + y
    return y if quantizer[0] is None else _triton_quantize(y, *quantizer)


def _matmul(a: Tensor, b: Tensor, scale: Tensor, low: Any, a_zero: Any, b_zero: Any, dtype: torch.dtype) -> Tensor:
    if low is None:
        return ops.int8_matmul(a, b, scale, a_zero, b_zero, dtype)
    assert a_zero is None
    return ops.int8_matmul_twin(a, b, scale, low, b_zero, dtype)


def expected(call: Call, args: tuple[Any, ...]) -> Any:
    """Return what torch's own operators give, or None where there is nothing to compare with."""
    with use_backend("aten"):
        return None if call.reference is None else call.reference(*args)
