"""Turn real numbers into codes, uniform or twin-uniform, with a noise per column."""

import triton
import triton.language as tl

from fxquant.kernels.triton.arithmetic import INTERPRETED, quantize
from fxquant.kernels.triton.tuning import bench

CONFIGS = [
    triton.Config({"BLOCK": block}, num_warps=warps)
    for block, warps in ([(64, 4)] if INTERPRETED else [(1024, 4), (2048, 4), (4096, 8)])
]


@triton.autotune(CONFIGS, key=["bucket"], cache_results=True, do_bench=bench)
@triton.jit
def quantize_values(
    x_ptr,
    out_ptr,
    scale_ptr,
    zero_point_ptr,
    low_ptr,
    split_ptr,
    noise_ptr,  # (columns,) float32
    count,
    columns,
    bucket,
    CODES: tl.constexpr,
    ZERO_POINT: tl.constexpr,
    NOISE: tl.constexpr,
    QMIN: tl.constexpr,
    QMAX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Quantise `BLOCK` consecutive values of `count`."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    noise = tl.load(noise_ptr + at % columns, mask=mask, other=0.0) if NOISE else 0.0
    pointers = (scale_ptr, zero_point_ptr, low_ptr, split_ptr)
    tl.store(out_ptr + at, quantize(x, noise, *pointers, CODES, ZERO_POINT, NOISE, QMIN, QMAX), mask=mask)
