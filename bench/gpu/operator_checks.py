"""Whether operators that have no kernel for GPUs give there what they give on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from bench.gpu import operands
from bench.gpu.comparison import RARELY, unlike
from bench.gpu.operands import FLOATS, draw_codes
from fxquant import ops
from fxquant.kernels import use_backend

CLOSE = 1e-2  # of the largest result, for floats
Case = tuple[str, Any, tuple[Any, ...]]


def check_operators() -> Iterator[str | None]:
    """Codes are the same but for roundings, and floats are close."""
    for name, function, arguments in _cases():
        found = function(*arguments)
        with use_backend("aten"):
            expected = function(*tree_map_only(Tensor, Tensor.cpu, arguments))
        pairs = zip(tree_leaves(found), tree_leaves(expected), strict=True)
        yield next((problem for one, other in pairs if (problem := _problem(one.cpu(), other, name))), None)


def _problem(found: Tensor, expected: Tensor, name: str) -> str | None:
    if not expected.dtype.is_floating_point:
        return unlike(found, expected, name, RARELY)
    error = float((found.double() - expected.double()).abs().max() / expected.double().abs().max())
    return None if error <= CLOSE else f"{name}: off by {error:.2g} of the largest result"


def _cases() -> Iterator[Case]:
    """Yield what recipes put into graphs: dynamic, default, adalog, fqvit and the placements, and folds of all kinds."""
    scale, zero = torch.tensor(0.02, device=operands.DEVICE), torch.tensor(3, dtype=torch.int32, device=operands.DEVICE)
    weight, bias = torch.randn(2, 384, device=operands.DEVICE).unbind()
    for dtype in FLOATS:
        x = torch.randn(197, 384, device=operands.DEVICE).mul(2).to(dtype)
        for symmetric, qmin, qmax in ((False, 0, 255), (True, -128, 127), (False, 0, 63)):
            what = f"{dtype} symmetric={symmetric} up to {qmax}"
            yield f"codes of tokens, {what}", ops.quantize_tokens, (x, symmetric, qmin, qmax)
            norm = (x, weight, bias, 1e-6, symmetric, qmin, qmax)
            yield f"codes of tokens behind a norm, {what}", ops.layer_norm_quantize_tokens, norm
        q, k, v = torch.randn(3, 4, 3, 49, 32, device=operands.DEVICE).to(dtype).unbind()
        added = (torch.randn(3, 49, 49, device=operands.DEVICE), torch.randn(2, 49, 49, device=operands.DEVICE))
        yield f"attention, {dtype}", ops.attention, (q, k, v, 0.2, *added)
        coded = (q, k, v, 0.2, None, None, scale, zero, 0, 255, None)
        yield f"codes of attention, {dtype}", ops.attention_quantize, coded
    probabilities = torch.rand(4, 3, 49, 49, device=operands.DEVICE)
    table = torch.arange(127, -129, -1, device=operands.DEVICE).to(torch.int8)
    step = torch.tensor(0.05, device=operands.DEVICE)
    yield "powers of a base", ops.quantize_adalog, (probabilities, probabilities.max(), step, table, 0.0)
    yield "powers of two", ops.quantize_log2, (probabilities, 15)
    scores = torch.randn(4, 3, 49, 49, device=operands.DEVICE)
    yield "softmax on integers", ops.log_int_softmax, (scores, torch.tensor(0.05, device=operands.DEVICE), 15)
    factor = torch.ones(384, dtype=torch.int32, device=operands.DEVICE)
    integers = (draw_codes(197, 384), factor, zero, 127, weight, bias, scale, zero, -128, 127)
    yield "layer norm on integers", ops.integer_layer_norm, integers
    window = ((16, 16), (16, 16), (0, 0), zero, 255)
    yield "patches", ops.extract_patches, (draw_codes(2, 3, 64, 64), *window)
