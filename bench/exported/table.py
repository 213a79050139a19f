"""The tables of ``docs/export.md``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.markdown import markdown

Data = Mapping[str, Any]
_TWIN = "twin-uniform codes as two QuantizeLinear, one for each range; each product is two"
# What of a recipe QuantizeLinear cannot say, and how the file says it.
HOW = {
    "default": "a scale per token, where calibration chose it, as `dynamic`",
    "dynamic": "a scale per token computed by standard operators, the product by MatMulInteger",
    "adalog": "powers of a base by a table of codes (Gather); heads with zero points of their own in steps",
    "ptq4vit": _TWIN,
    "noisyquant": "noise is added in front of QuantizeLinear; what it adds is in the bias",
    "noisyquant_ptq4vit": f"as `noisyquant`; {_TWIN}",
    "fqvit": "log-int-softmax in steps of float32, its powers of two as values",
    "itpn": "weights alone are codes where activations stay float",
}


def recipes(data: Data) -> str:
    """Return a line per recipe: what of it other runtimes run on int8."""
    rows = [
        [
            f"`{row['recipe']}`",
            "yes",
            HOW.get(row["recipe"], ""),
            f"{row['int8']} of {row['products']}",
            f"{row['openvino_int8']} of {row['openvino_products']}",
            f"{row['other']} of {row['codes']}",
        ]
        for row in data["rows"]
    ]
    head = (
        "recipe",
        "supported",
        "in place of QuantizeLinear",
        "ONNX Runtime int8",
        "OpenVINO int8",
        "codes that differ",
    )
    note = (
        "Products that each runtime computes on int8, of all that it has, for a ViT of two blocks; OpenVINO makes one kernel "
        "of attention, which is not counted. Codes that differ: at all sites, where both read the same codes before them; "
        f"none by more than {max(row['farthest'] for row in data['rows'])}."
    )
    return f"{markdown(head, rows, text=3)}\n\n{note} {_engines(data)}"


def models(data: Data) -> str:
    """Return a line per model: how far other runtimes are from the graph."""
    rows = [
        [
            row["model"],
            f"{row['int8']} of {row['products']}",
            f"{row['openvino_int8']} of {row['openvino_products']}",
            f"{1e6 * row['other'] / row['codes']:.1f}",
            f"{100 * row['equal_end_to_end']:.2f}",
            f"{row['error']:.1e}",
            f"{row['openvino_error']:.1e}",
            f"{row['fake_error']:.1e}",
            f"{row['size_bytes'] / 1e6:.1f}",
            f"{row['saved_bytes'] / 1e6:.1f}",
        ]
        for row in data["models"]
    ]
    head = (
        *("model", "ONNX Runtime int8", "OpenVINO int8", "codes that differ, per million", "equal codes end to end, %"),
        *("error, ONNX Runtime", "error, OpenVINO", "error, fake graph", "file, MB", "saved, MB"),
    )
    note = (
        "Recipe `minmax`; random weights but for the first. Codes that differ: where both read the same codes before them. "
        "End to end, and errors: each engine reads its own codes, so that one that differs moves those behind it. Errors are "
        "relative, of the outputs, to those of the int8 graph; the fake graph of fxquant has one as well. Saved: the file of "
        "`fxquant.save`."
    )
    return f"{markdown(head, rows, text=1)}\n\n{note} {_engines(data)}"


def _engines(data: Data) -> str:
    return f"{', '.join(f'{name} {version}' for name, version in data['engines'].items())}, {data['date'][:10]}."
