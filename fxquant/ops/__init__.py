"""The operators that passes put into graphs: plain functions, each with a readable torch implementation."""

from fxquant.ops.check_input import check_input
from fxquant.ops.extract_patches import extract_patches
from fxquant.ops.int8_linear import int8_linear
from fxquant.ops.quantize import dequantize, quantize

__all__ = ["check_input", "dequantize", "extract_patches", "int8_linear", "quantize"]
