"""The int8 product of a linear layer and everything after it: scale, bias, GELU or residual, codes."""

from typing import Any

import triton
import triton.language as tl

from fxquant.kernels.triton.arithmetic import INTERPRETED, NO_CODES, NO_GELU, gelu, multiply, quantize, round_to
from fxquant.kernels.triton.tuning import bench

GROUP_ROWS = tl.constexpr(8)  # tiles of rows that share columns of the weight while these are in the cache


def _config(rows: int, columns: int, depth: int, warps: int, stages: int) -> triton.Config:
    tile = {"BLOCK_M": rows, "BLOCK_N": columns, "BLOCK_K": depth}
    return triton.Config(tile, num_warps=warps, num_stages=stages)


# Hopper multiplies 64 rows at once or more; tiles of fewer rows are for batches that have no more.
CONFIGS = [
    _config(128, 256, 128, 8, 3),
    _config(128, 256, 64, 8, 4),
    _config(256, 128, 128, 8, 3),
    _config(128, 128, 128, 8, 4),
    _config(128, 128, 64, 8, 4),
    _config(128, 128, 128, 4, 3),
    _config(128, 128, 64, 4, 4),
    _config(64, 256, 128, 4, 3),
    _config(128, 64, 128, 4, 4),
    _config(64, 128, 128, 4, 4),
    _config(64, 64, 128, 4, 5),
    _config(32, 64, 128, 4, 5),
    _config(16, 64, 128, 4, 5),
    _config(16, 128, 128, 4, 4),
]
if INTERPRETED:
    CONFIGS = [_config(32, 32, 32, 4, 1)]


def fitting_configs(configs: list[Any], named: dict[str, Any], **rest: Any) -> list[Any]:
    """
    Return the tiles worth measuring: none taller than the number of rows, and no small ones where there are many rows.

    Twin-uniform codes take two sums per result. With more than 64 results per thread they do not fit the registers.
    """
    arguments = named | rest
    rows, results = arguments["bucket"] or 1024, 64 if arguments["TWIN_INPUT"] else 128
    tallest, least = max(16, min(rows, 256)), 16 if rows <= 256 else 64 if rows < 2048 else 128
    return [c for c in configs if least <= c.kwargs["BLOCK_M"] <= tallest and _results(c) <= results] or configs[-1:]


def _results(config: Any) -> int:
    return int(config.kwargs["BLOCK_M"] * config.kwargs["BLOCK_N"] // (32 * config.num_warps))


@triton.autotune(
    CONFIGS,
    key=["bucket", "N", "K", "TWIN_INPUT", "OWN_SCALES", "GELU", "RESIDUAL", "CODES"],
    prune_configs_by={"early_config_prune": fitting_configs},
    cache_results=True,
    do_bench=bench,
)
@triton.jit
def gemm(
    codes_ptr,  # (M, K) int8
    weight_ptr,  # (N, K) int8
    scale_ptr,  # (N,) float32
    low_ptr,  # (N,) float32
    bias_ptr,  # (N,) float32
    residual_ptr,  # (M, N)
    row_scale_ptr,  # (M,) float32
    row_zero_point_ptr,  # (M,) int32
    out_ptr,  # (M, N)
    q_scale_ptr,
    q_zero_point_ptr,
    q_low_ptr,
    q_split_ptr,
    q_noise_ptr,  # (N,) float32
    M,
    N,
    K,
    codes_stride,
    weight_stride,
    bucket,  # M rounded up to a power of two, for the choice of the tile alone
    EVEN_K: tl.constexpr,
    TWIN_INPUT: tl.constexpr,
    OWN_SCALES: tl.constexpr,  # of rows
    GELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    DTYPE: tl.constexpr,
    CODES: tl.constexpr,
    ZERO_POINT: tl.constexpr,
    NOISE: tl.constexpr,
    QMIN: tl.constexpr,
    QMAX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute one tile of ``(M, N)``. The steps after the product are those of `fxquant.kernels.cpu.packed_linear`."""
    row, column = _tile_origin(M, N, BLOCK_M, BLOCK_N)
    acc, above, sums = _multiply_tile(
        codes_ptr + row.to(tl.int64) * codes_stride,
        weight_ptr + column.to(tl.int64) * weight_stride,
        *(M - row, N - column, K, codes_stride, weight_stride),
        *(EVEN_K, TWIN_INPUT, OWN_SCALES, BLOCK_M, BLOCK_N, BLOCK_K),
    )
    columns = column + tl.arange(0, BLOCK_N)
    inside = columns < N
    scale = tl.load(scale_ptr + columns, mask=inside, other=0.0)[None, :]
    rows = tl.arange(0, BLOCK_M)
    if TWIN_INPUT:
        low = tl.load(low_ptr + columns, mask=inside, other=0.0)[None, :]
        y = multiply(above.to(tl.float32), scale) + multiply((acc - above).to(tl.float32), low)
    elif OWN_SCALES:
        zero_point = tl.load(row_zero_point_ptr + row + rows, mask=rows < M - row, other=0)[:, None]
        own = tl.load(row_scale_ptr + row + rows, mask=rows < M - row, other=0.0)[:, None]
        y = multiply(multiply((acc - zero_point * sums[None, :]).to(tl.float32), scale), own)
    else:
        y = multiply(acc.to(tl.float32), scale)
    y = round_to(y + tl.load(bias_ptr + columns, mask=inside, other=0.0)[None, :], DTYPE)
    if GELU != NO_GELU:
        y = round_to(gelu(y, GELU), DTYPE)
    mask = (rows < M - row)[:, None] & inside[None, :]
    at = row.to(tl.int64) * N + rows[:, None] * N + columns[None, :]
    if RESIDUAL:
        y = round_to(y + tl.load(residual_ptr + at, mask=mask, other=0.0).to(tl.float32), DTYPE)
    if CODES == NO_CODES:
        tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=mask)
    else:
        noise = tl.load(q_noise_ptr + columns, mask=inside, other=0.0)[None, :] if NOISE else 0.0
        pointers = (q_scale_ptr, q_zero_point_ptr, q_low_ptr, q_split_ptr)
        tl.store(out_ptr + at, quantize(y, noise, *pointers, CODES, ZERO_POINT, NOISE, QMIN, QMAX), mask=mask)


@triton.jit
def _tile_origin(M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Return the first row and column of this program's tile. Neighbouring programs share operands."""
    program = tl.program_id(0)
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    group = program // (GROUP_ROWS * tiles_n)
    first = group * GROUP_ROWS
    height = tl.minimum(tiles_m - first, GROUP_ROWS)
    within = program % (GROUP_ROWS * tiles_n)
    return (first + within % height) * BLOCK_M, within // height * BLOCK_N


@triton.jit
def _multiply_tile(
    codes_ptr,
    weight_ptr,
    rows_left,
    columns_left,
    K,
    codes_stride,
    weight_stride,
    EVEN_K: tl.constexpr,
    TWIN_INPUT: tl.constexpr,
    OWN_SCALES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """
    Return the int32 sums of a tile, for twin-uniform codes those over its positive codes alone, and those of the weight.

    The last are for rows with zero points of their own, and 0 for others.
    """
    # Rows beyond the last are read as the last: that needs no mask, and they are not stored.
    rows = tl.minimum(tl.arange(0, BLOCK_M), rows_left - 1)
    columns = tl.minimum(tl.arange(0, BLOCK_N), columns_left - 1)
    depth = tl.arange(0, BLOCK_K)
    a_ptrs = codes_ptr + rows[:, None] * codes_stride + depth[None, :]
    b_ptrs = weight_ptr + columns[None, :] * weight_stride + depth[:, None]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
    above = acc
    sums = tl.zeros((BLOCK_N,), dtype=tl.int32)
    for k in range(0, K, BLOCK_K):
        if EVEN_K:
            a, b = tl.load(a_ptrs), tl.load(b_ptrs)
        else:
            a = tl.load(a_ptrs, mask=depth[None, :] < K - k, other=0)
            b = tl.load(b_ptrs, mask=depth[:, None] < K - k, other=0)
        acc = tl.dot(a, b, acc, out_dtype=tl.int32)
        if TWIN_INPUT:
            above = tl.dot(tl.maximum(a, 0).to(tl.int8), b, above, out_dtype=tl.int32)
        if OWN_SCALES:
            sums += tl.sum(b.to(tl.int32), 0)
        a_ptrs += BLOCK_K
        b_ptrs += BLOCK_K
    return acc, above, sums
