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


def _competitor(name: str, summary: str, dtype: torch.dtype, compiled: bool) -> Competitor:
    build = partial(build_fxquant, dtype=dtype, compiled=compiled)
    return Competitor(name, summary, "int8", build, prepare=lambda subject: subject.file(dtype))


FXQUANT = _competitor("fxquant", "int8, rest float32, eager", torch.float32, False)
FXQUANT_COMPILE = _competitor("fxquant-compile", "int8, rest float32, fxquant.compile", torch.float32, True)
FXQUANT_BF16 = _competitor("fxquant-bf16", "int8, rest bfloat16, eager", torch.bfloat16, False)
FXQUANT_BF16_COMPILE = _competitor("fxquant-bf16-compile", "int8, rest bfloat16, fxquant.compile", torch.bfloat16, True)
