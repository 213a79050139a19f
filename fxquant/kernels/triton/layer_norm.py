"""A layer norm whose result is codes. Each program computes some rows."""

import triton
import triton.language as tl

from fxquant.kernels.triton.arithmetic import INTERPRETED, UNIFORM, quantize
from fxquant.kernels.triton.tuning import bench

CONFIGS = [
    triton.Config({"ROWS": rows}, num_warps=warps)
    for rows, warps in ([(2, 4)] if INTERPRETED else [(1, 2), (1, 4), (2, 4), (4, 4), (4, 8), (16, 8)])
]


@triton.autotune(CONFIGS, key=["bucket", "C"], cache_results=True, do_bench=bench)
@triton.jit
def layer_norm(
    x_ptr,  # (M, C)
    weight_ptr,  # (C,)
    bias_ptr,  # (C,)
    out_ptr,  # (M, C) int8
    q_scale_ptr,
    q_zero_point_ptr,
    q_noise_ptr,  # (C,) float32
    M,
    C,
    stride,
    bucket,
    epsilon,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    ZERO_POINT: tl.constexpr,
    NOISE: tl.constexpr,
    QMIN: tl.constexpr,
    QMAX: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Normalise `ROWS` rows in float32, whatever the dtypes of x, weight and bias are."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK_C)
    inside = columns < C
    mask = (rows < M)[:, None] & inside[None, :]
    first = rows.to(tl.int64)[:, None]
    x = tl.load(x_ptr + first * stride + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    centred = tl.where(mask, x - (tl.sum(x, 1) / C)[:, None], 0.0)
    deviation = tl.sqrt_rn(tl.sum(centred * centred, 1) / C + tl.cast(epsilon, tl.float32))  # Inductor gives float64
    y = centred * tl.div_rn(1.0, deviation)[:, None]
    if WEIGHT:
        y = y * tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    if BIAS:
        y = y + tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    noise = tl.load(q_noise_ptr + columns, mask=inside, other=0.0)[None, :] if NOISE else 0.0
    pointers = (q_scale_ptr, q_zero_point_ptr, q_scale_ptr, q_scale_ptr)
    codes = quantize(y, noise, *pointers, UNIFORM, ZERO_POINT, NOISE, QMIN, QMAX)
    tl.store(out_ptr + first * C + columns[None, :], codes, mask=mask)
