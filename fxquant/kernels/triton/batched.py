"""Many int8 products of two activations in one launch, with their zero points and scales."""

import triton
import triton.language as tl

from fxquant.kernels.triton.arithmetic import INTERPRETED, multiply, round_to
from fxquant.kernels.triton.tuning import bench


def _config(rows: int, columns: int, depth: int, warps: int, stages: int) -> triton.Config:
    tile = {"BLOCK_M": rows, "BLOCK_N": columns, "BLOCK_K": depth}
    return triton.Config(tile, num_warps=warps, num_stages=stages)


CONFIGS = [
    _config(128, 128, 64, 8, 3),
    _config(128, 64, 64, 4, 3),
    _config(64, 128, 64, 4, 3),
    _config(64, 64, 64, 4, 3),
    _config(64, 64, 32, 4, 4),
    _config(32, 64, 64, 4, 3),
]
if INTERPRETED:
    CONFIGS = [_config(32, 32, 32, 4, 1)]


@triton.autotune(CONFIGS, key=["bucket", "M", "N", "K", "TWIN_INPUT"], cache_results=True, do_bench=bench)
@triton.jit
def batched(
    a_ptr,  # (B, H, M, K) int8
    b_ptr,  # (B, H, K, N) int8
    scale_ptr,  # one float32, or one per H
    low_ptr,
    a_zero_point_ptr,  # one int32, or one per H
    b_zero_point_ptr,
    out_ptr,  # (B, H, M, N)
    H,
    M,
    N,
    K,
    bucket,
    a_stride_b,
    a_stride_h,
    a_stride_m,
    a_stride_k,
    b_stride_b,
    b_stride_h,
    b_stride_k,
    b_stride_n,
    scale_stride,
    low_stride,
    a_zero_point_stride,
    b_zero_point_stride,
    DTYPE: tl.constexpr,
    TWIN_INPUT: tl.constexpr,
    A_ZERO_POINT: tl.constexpr,
    B_ZERO_POINT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute one tile of one product, as `fxquant.ops.int8_matmul` does, or `int8_matmul_twin` for twin-uniform codes."""
    tiles_n = tl.cdiv(N, BLOCK_N)
    per_matrix = tl.cdiv(M, BLOCK_M) * tiles_n
    matrix, tile = tl.program_id(0) // per_matrix, tl.program_id(0) % per_matrix
    batch, head = (matrix // H).to(tl.int64), (matrix % H).to(tl.int64)
    rows = tile // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tile % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    a_ptrs = a_ptr + batch * a_stride_b + head * a_stride_h + rows[:, None] * a_stride_m + depth[None, :] * a_stride_k
    b_ptrs = (
        b_ptr + batch * b_stride_b + head * b_stride_h + columns[None, :] * b_stride_n + depth[:, None] * b_stride_k
    )
    a_zero = tl.load(a_zero_point_ptr + head * a_zero_point_stride) if A_ZERO_POINT else 0
    b_zero = tl.load(b_zero_point_ptr + head * b_zero_point_stride) if B_ZERO_POINT else 0
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
    above = acc
    a_sum = tl.zeros((BLOCK_M,), dtype=tl.int32)
    above_sum = a_sum
    b_sum = tl.zeros((BLOCK_N,), dtype=tl.int32)
    for k in range(0, K, BLOCK_K):
        a = tl.load(a_ptrs, mask=(rows < M)[:, None] & (depth < K - k)[None, :], other=0)
        b = tl.load(b_ptrs, mask=(columns < N)[None, :] & (depth < K - k)[:, None], other=0)
        acc = tl.dot(a, b, acc, out_dtype=tl.int32)
        if B_ZERO_POINT:
            a_sum += tl.sum(a.to(tl.int32), 1)
        if A_ZERO_POINT:
            b_sum += tl.sum(b.to(tl.int32), 0)
        if TWIN_INPUT:
            positive = tl.maximum(a, 0).to(tl.int8)
            above = tl.dot(positive, b, above, out_dtype=tl.int32)
            if B_ZERO_POINT:
                above_sum += tl.sum(positive.to(tl.int32), 1)
        a_ptrs += BLOCK_K * a_stride_k
        b_ptrs += BLOCK_K * b_stride_k
    acc += (K * a_zero - a_sum)[:, None] * b_zero - b_sum[None, :] * a_zero
    scale = tl.load(scale_ptr + head * scale_stride)
    if TWIN_INPUT:
        above -= above_sum[:, None] * b_zero
        low = tl.load(low_ptr + head * low_stride)
        y = multiply(above.to(tl.float32), scale) + multiply((acc - above).to(tl.float32), low)
    else:
        y = multiply(acc.to(tl.float32), scale)
    at = matrix.to(tl.int64) * M * N + rows[:, None] * N + columns[None, :]
    tl.store(
        out_ptr + at, round_to(y, DTYPE).to(out_ptr.dtype.element_ty), mask=(rows < M)[:, None] & (columns < N)[None, :]
    )
