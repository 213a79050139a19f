"""torchao's dynamic int8: weights per channel, activations per token, scales computed at run time."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.benchmark.competitor import Competitor, Engine
from fxquant.benchmark.subject import Subject
from fxquant.benchmark.torch_engine import torch_engine


def build_dynamic(subject: Subject, images: Tensor) -> Engine:
    """Return the bfloat16 model with dynamic int8 linear layers, compiled."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = subject.model(torch.bfloat16)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return torch_engine(torch.compile(model), images.to(device=subject.device, dtype=torch.bfloat16))


TORCHAO_DYNAMIC = Competitor(
    "torchao-dynamic", "torchao dynamic int8, rest bfloat16, torch.compile", "int8", build_dynamic, needs=("torchao",)
)
