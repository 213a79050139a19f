"""Kernels for x86 processors with AVX512-VNNI: C++ that is built once per machine and kept in the user's cache."""

from fxquant.kernels.cpu.build import expected_obstacle, is_available, obstacle
from fxquant.kernels.cpu.learned_step import (
    fake_quantize,
    fake_quantize_backward,
    steps_along,
    variation,
    weight_scales,
)
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
    "Quantizer",
    "attends",
    "attention_quantize",
    "expected_obstacle",
    "fake_quantize",
    "fake_quantize_backward",
    "fits",
    "is_available",
    "layer_norm_quantize",
    "layer_norm_quantize_tokens",
    "linear",
    "obstacle",
    "pack",
    "packed_linear",
    "packed_linear_tokens",
    "quantize",
    "quantize_tokens",
    "quantizes",
    "steps_along",
    "variation",
    "weight_scales",
]
