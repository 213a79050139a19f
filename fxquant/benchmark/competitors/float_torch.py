"""The float model in torch, eager and under torch.compile."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from fxquant.benchmark.competitor import Competitor, Engine
from fxquant.benchmark.subject import Subject
from fxquant.benchmark.torch_engine import torch_engine
from fxquant.errors import InputError


def build_float(
    subject: Subject, images: Tensor, *, dtype: torch.dtype, compiled: bool = False, matmul: bool = False
) -> Engine:
    """
    Return the float model in `dtype`.

    matmul: split timm's attention into two products around a softmax. On some processors torch.compile runs that faster
    than the fused kernel.

    Raises `InputError` where no attention is fused.
    """
    model = subject.model(dtype)
    if matmul:
        open_attention(model)
    return torch_engine(torch.compile(model) if compiled else model, images.to(device=subject.device, dtype=dtype))


def open_attention(model: nn.Module) -> None:
    """Switch off timm's fused attention; raise `InputError` where there is none."""
    fused = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    if not fused:
        raise InputError("the model has no fused attention to open: this would be bf16-compile again")
    for module in fused:
        setattr(module, "fused_attn", False)  # noqa: B010 - a plain assignment is a tensor to the type checker


FP32 = Competitor("fp32", "float32, eager", "float32", partial(build_float, dtype=torch.float32))
FP32_COMPILE = Competitor(
    "fp32-compile", "float32, torch.compile", "float32", partial(build_float, dtype=torch.float32, compiled=True)
)
BF16 = Competitor("bf16", "bfloat16, eager", "bfloat16", partial(build_float, dtype=torch.bfloat16))
BF16_COMPILE = Competitor(
    "bf16-compile", "bfloat16, torch.compile", "bfloat16", partial(build_float, dtype=torch.bfloat16, compiled=True)
)
BF16_COMPILE_MATMUL = Competitor(
    "bf16-compile-matmul",
    "bfloat16, torch.compile, attention as two products around a softmax",
    "bfloat16",
    partial(build_float, dtype=torch.bfloat16, compiled=True, matmul=True),
)
