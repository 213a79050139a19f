"""Kernels for x86 processors, in C++: built for several sets of instructions, of which the best is used that there is."""

from fxquant.kernels.cpu.isa import ISAS, Isa, isas_here
from fxquant.kernels.cpu.learned_step import (
    fake_quantize,
    fake_quantize_backward,
    steps_along,
    variation,
    weight_scales,
)
from fxquant.kernels.cpu.libraries import copy_libraries, prebuilt
from fxquant.kernels.cpu.loading import expected_obstacle, is_available, isa_in_use, obstacle, use_isa
from fxquant.kernels.cpu.operators import (
    attends,
    attention_quantize,
    fits,
    layer_norm_quantize,
    layer_norm_quantize_tokens,
    linear,
    pack,
    packed_linear,
    packed_linear_tokens,
    quantize,
    quantize_tokens,
    quantizes,
)
from fxquant.kernels.quantizer import Quantizer

__all__ = [
    "ISAS",
    "Isa",
    "Quantizer",
    "attends",
    "attention_quantize",
    "copy_libraries",
    "expected_obstacle",
    "fake_quantize",
    "fake_quantize_backward",
    "fits",
    "is_available",
    "isa_in_use",
    "isas_here",
    "layer_norm_quantize",
    "layer_norm_quantize_tokens",
    "linear",
    "obstacle",
    "pack",
    "packed_linear",
    "packed_linear_tokens",
    "prebuilt",
    "quantize",
    "quantize_tokens",
    "quantizes",
    "steps_along",
    "use_isa",
    "variation",
    "weight_scales",
]
