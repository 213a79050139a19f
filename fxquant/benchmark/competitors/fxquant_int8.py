"""fxquant's int8 model, where the rest is float32 or bfloat16."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

import fxquant
from fxquant.benchmark.competitor import Competitor, Engine
from fxquant.benchmark.subject import Subject
from fxquant.benchmark.torch_engine import torch_engine


def build_fxquant(subject: Subject, images: Tensor, *, dtype: torch.dtype, compiled: bool = False) -> Engine:
    """Return the converted model, which computes in `dtype` what is not int8; compiled, it is read out of its file."""
    file = subject.file(dtype)
    model = fxquant.compile(file, device=subject.device) if compiled else subject.quantized(dtype)
    return torch_engine(model, images.to(device=subject.device, dtype=dtype))


FXQUANT = Competitor("fxquant", "int8, rest float32, eager", "int8", partial(build_fxquant, dtype=torch.float32))
FXQUANT_COMPILE = Competitor(
    "fxquant-compile",
    "int8, rest float32, fxquant.compile",
    "int8",
    partial(build_fxquant, dtype=torch.float32, compiled=True),
)
FXQUANT_BF16 = Competitor(
    "fxquant-bf16", "int8, rest bfloat16, eager", "int8", partial(build_fxquant, dtype=torch.bfloat16)
)
FXQUANT_BF16_COMPILE = Competitor(
    "fxquant-bf16-compile",
    "int8, rest bfloat16, fxquant.compile",
    "int8",
    partial(build_fxquant, dtype=torch.bfloat16, compiled=True),
)
