"""torch's own path to int8 on x86: PT2E with the X86InductorQuantizer, compiled with frozen weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from fxquant.benchmark.competitor import Competitor, Engine
from fxquant.benchmark.subject import Subject
from fxquant.benchmark.torch_engine import torch_engine


def build_pt2e(subject: Subject, images: Tensor) -> Engine:
    """Return the model quantised by PT2E in its default x86 configuration."""
    from torchao.quantization.pt2e.lowering import lower_pt2e_quantized_to_x86

    lowered = lower_pt2e_quantized_to_x86(quantize_pt2e(subject, images), (images,))
    return torch_engine(_Frozen(lowered), images)


def quantize_pt2e(subject: Subject, images: Tensor) -> fx.GraphModule:
    """Return the exported model with quantise / dequantise pairs; it computes in float32 until it is lowered."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    with torch.no_grad():
        prepared = prepare_pt2e(torch.export.export(subject.model(), (images,)).module(), quantizer)
        for batch in subject.batches(len(images)):
            prepared(batch)
    converted: fx.GraphModule = convert_pt2e(prepared)
    return converted


class _Frozen:
    """Compile with the weights as constants: otherwise nothing is fused around the integer products."""

    def __init__(self, model: fx.GraphModule) -> None:
        self._compiled = torch.compile(model)

    def __call__(self, images: Tensor) -> Any:
        import torch._inductor.config as inductor

        with inductor.patch(freezing=True):
            return self._compiled(images)


PT2E = Competitor(
    "pt2e", "torchao PT2E for x86, torch.compile with freezing", "int8", build_pt2e, ("torchao",), devices=("cpu",)
)
