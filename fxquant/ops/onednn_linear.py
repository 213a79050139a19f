"""`int8_linear` as one kernel of x86 processors: product, scale, bias and GELU together, by oneDNN."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.errors import UnsupportedGraphError
from fxquant.kernels.checks import check_linear

DTYPES = (torch.float32, torch.bfloat16)
# Approximation of `torch.nn.functional.gelu` -> oneDNN's name for it; None: no GELU.
GELU_ALGORITHMS: dict[str | None, str] = {None: "", "none": "none", "tanh": "tanh"}


def is_available() -> bool:
    """Say whether this torch has oneDNN's integer linear layer and this processor multiplies bytes without saturation."""
    has_ops = all(hasattr(torch.ops.onednn, name) for name in ("qlinear_prepack", "qlinear_pointwise"))
    return has_ops and has_vnni()


def has_vnni() -> bool:
    """Say whether oneDNN is there and this processor multiplies bytes without saturation."""
    vnni = getattr(torch.cpu, "_is_vnni_supported", None)
    return torch.backends.mkldnn.is_available() and vnni is not None and bool(vnni())


def onednn_linear(
    codes: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, dtype: torch.dtype, gelu: str | None
) -> Tensor:
    """
    Return ``gelu(scale * (codes @ weight.T) + bias)`` as ``(..., O)`` in `dtype`, float32 or bfloat16.

    codes ``(..., K)``, weight ``(O', K')``, scale and bias ``(O,)`` are those of `int8_linear` with a symmetric weight; the sum
    of products is the same integer. gelu: the approximation, "none" or "tanh", or None for no GELU. Packing the weight costs
    more than the product itself: it pays only where a compiler does it once and for all.
    """
    if dtype not in DTYPES:
        raise UnsupportedGraphError(f"oneDNN's linear layer gives float32 or bfloat16, not {dtype}")
    check_linear(codes, weight, scale, bias, dtype)
    weight = weight[: scale.shape[0], : codes.shape[-1]].contiguous()
    return packed_onednn_linear(codes, prepack(weight), scale, bias, dtype, gelu)


def prepack(weight: Tensor) -> Tensor:
    """Return the weight ``(O, K)`` in oneDNN's own layout."""
    packed: Tensor = torch.ops.onednn.qlinear_prepack(weight, None)
    return packed


def packed_onednn_linear(
    codes: Tensor, packed: Tensor, scale: Tensor, bias: Tensor, dtype: torch.dtype, gelu: str | None
) -> Tensor:
    """Return `onednn_linear` of a weight that was packed before."""
    check_linear(codes, None, scale, bias, dtype)
    # oneDNN wants unsigned activations on processors without AMX: code + 128, with the zero point 128.
    unsigned = (codes ^ -128).view(torch.uint8)
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    post_op = "none" if gelu is None else "gelu"
    result: Tensor = torch.ops.onednn.qlinear_pointwise(
        *(unsigned, 1.0, 128, packed, scale, zeros, bias),
        *(1.0, 0, dtype, post_op, [], GELU_ALGORITHMS[gelu]),
    )
    return result
