"""A converted graph as an ONNX file with QuantizeLinear and DequantizeLinear, written node by node."""

from fxquant.onnx_export.export_file import export_onnx

__all__ = ["export_onnx"]
