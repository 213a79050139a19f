"""The operators that passes put into graphs: plain functions, each with a readable torch implementation."""

from fxquant.ops.check_input import check_input
from fxquant.ops.extract_patches import extract_patches
from fxquant.ops.int8_linear import int8_linear
from fxquant.ops.int8_linear_twin import int8_linear_twin
from fxquant.ops.int8_matmul import int8_matmul
from fxquant.ops.int8_matmul_twin import int8_matmul_twin
from fxquant.ops.noise import add_noise, denoise_bias
from fxquant.ops.quantize import dequantize, quantize
from fxquant.ops.twin import dequantize_twin, fake_quantize_summed_twin, pack_twin, quantize_twin, unpack_twin

__all__ = [
    "add_noise",
    "check_input",
    "denoise_bias",
    "dequantize",
    "dequantize_twin",
    "extract_patches",
    "fake_quantize_summed_twin",
    "int8_linear",
    "int8_linear_twin",
    "int8_matmul",
    "int8_matmul_twin",
    "pack_twin",
    "quantize",
    "quantize_twin",
    "unpack_twin",
]
