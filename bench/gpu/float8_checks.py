"""Whether `torch._scaled_mm` computes what the float8 codes stand for, with all forms of scales that fxquant gives it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.gpu import operands
from bench.gpu.operands import FLOATS, LAYERS
from fxquant import ops
from fxquant.lowering.float8_product import ALIGNMENT
from fxquant.numerics.float8 import DTYPE
from fxquant.ops.float8_linear import float_mm, scaled_mm

# Of the largest result: sums of a GPU's float8 units keep some 14 bits between their promotions to float32.
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 1e-2}


def check_float8() -> Iterator[str | None]:
    """Products are those of the codes as float32, and codes are those of the CPU."""
    for shape, dtype, by_row in itertools.product(LAYERS, FLOATS, (False, True)):
        layer = draw_float8_layer(*shape)
        row_scale = torch.rand(shape[0], 1, device=operands.DEVICE) + 0.1 if by_row else None
        found = scaled_mm(*layer, dtype, row_scale)
        expected = float_mm(*layer, torch.float32, row_scale)
        error = float((found.float() - expected).abs().max() / expected.abs().max())
        case = f"{shape} {dtype} by row={by_row}"
        right = found.dtype is dtype and error <= TOLERANCE[dtype]
        yield None if right else f"{case}: {found.dtype}, off by {error:.2g} of the largest result"
    for dtype in FLOATS:
        x = torch.randn(197, 768, device=operands.DEVICE).mul(3).to(dtype)
        scale, host = torch.tensor(0.01, device=x.device), x.cpu()
        one = ops.quantize_float8(x, scale), ops.quantize_float8(host, scale.cpu())
        tokens = ops.quantize_float8_tokens(x)[0], ops.quantize_float8_tokens(host)[0]
        for name, (codes, wanted) in {"a scale": one, "a scale per token": tokens}.items():
            wrong = (codes.cpu().view(torch.uint8) != wanted.view(torch.uint8)).float().mean().item()
            yield None if wrong == 0 else f"codes with {name}, {dtype}: {wrong:.2%} differ from those of the CPU"


def draw_float8_layer(rows: int, depth: int, outputs: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return codes ``(rows, depth)``, a padded weight, and scale and bias ``(outputs,)`` of a float8 layer."""
    codes = torch.randn(rows, depth, device=operands.DEVICE).to(DTYPE)
    padding = (0, -depth % ALIGNMENT, 0, -outputs % ALIGNMENT)
    weight = F.pad(torch.randn(outputs, depth, device=operands.DEVICE), padding).to(DTYPE)
    scale = (torch.rand(outputs, device=operands.DEVICE) + 0.1) / depth**0.5
    return codes, weight, scale, torch.randn(outputs, device=operands.DEVICE)
