"""The operators that passes put into graphs: plain functions, each with a readable torch implementation."""

from fxquant.ops.adalog import fake_quantize_adalog, quantize_adalog
from fxquant.ops.attention_quantize import attention, attention_quantize
from fxquant.ops.check_input import check_input
from fxquant.ops.check_values import check_values, mark_invalid
from fxquant.ops.extract_patches import extract_patches
from fxquant.ops.float8 import dequantize_float8, quantize_float8, quantize_float8_tokens
from fxquant.ops.float8_linear import float8_linear
from fxquant.ops.int8_linear import int8_linear
from fxquant.ops.int8_linear_add import int8_linear_add, int8_linear_twin_add
from fxquant.ops.int8_linear_gelu_quantize import int8_linear_gelu_quantize, int8_linear_gelu_quantize_twin
from fxquant.ops.int8_linear_twin import int8_linear_twin
from fxquant.ops.int8_matmul import int8_matmul
from fxquant.ops.int8_matmul_twin import int8_matmul_twin
from fxquant.ops.integer_layer_norm import integer_layer_norm
from fxquant.ops.interpolate_scaled import interpolate_scaled
from fxquant.ops.layer_norm_quantize import layer_norm_quantize, layer_norm_quantize_tokens
from fxquant.ops.log2 import dequantize_log2, log_int_softmax, quantize_log2
from fxquant.ops.make_output import make_output
from fxquant.ops.noise import add_noise, denoise_bias
from fxquant.ops.quantize import dequantize, quantize
from fxquant.ops.tokens import dequantize_tokens, quantize_tokens
from fxquant.ops.twin import dequantize_twin, fake_quantize_summed_twin, pack_twin, quantize_twin, unpack_twin

__all__ = [
    "add_noise",
    "attention",
    "attention_quantize",
    "check_input",
    "check_values",
    "denoise_bias",
    "dequantize",
    "dequantize_float8",
    "dequantize_log2",
    "dequantize_tokens",
    "dequantize_twin",
    "extract_patches",
    "fake_quantize_adalog",
    "fake_quantize_summed_twin",
    "float8_linear",
    "int8_linear",
    "int8_linear_add",
    "int8_linear_gelu_quantize",
    "int8_linear_gelu_quantize_twin",
    "int8_linear_twin",
    "int8_linear_twin_add",
    "int8_matmul",
    "int8_matmul_twin",
    "integer_layer_norm",
    "interpolate_scaled",
    "layer_norm_quantize",
    "layer_norm_quantize_tokens",
    "log_int_softmax",
    "make_output",
    "mark_invalid",
    "pack_twin",
    "quantize",
    "quantize_adalog",
    "quantize_float8",
    "quantize_float8_tokens",
    "quantize_log2",
    "quantize_tokens",
    "quantize_twin",
    "unpack_twin",
]
