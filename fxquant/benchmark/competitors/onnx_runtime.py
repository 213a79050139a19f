"""ONNX Runtime's static int8: QDQ, unsigned activations, signed weights per channel."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxquant.benchmark.competitor import Competitor, Engine, Evidence
from fxquant.benchmark.subject import Subject

_FLOAT_PRODUCTS = (
    "MatMul",
    "FusedMatMul",
    "Gemm",
    "FusedGemm",
    "Conv",
    "FusedConv",
    "Attention",
    "MultiHeadAttention",
    "MatMulNBits",
)
_INT8_PRODUCTS = (
    *("QLinearMatMul", "QLinearConv", "QGemm", "QAttention", "MatMulInteger", "MatMulIntegerToFloat"),
    *("ConvInteger", "DynamicQuantizeMatMul"),
)
_INPUT = "images"


def build_onnx_runtime(subject: Subject, images: Tensor) -> Engine:
    """
    Return the model exported to ONNX and quantised to int8.

    Products with a weight are quantised (MatMul and Gemm). Those inside attention are not: an 8-bit softmax between them
    would cost most of the agreement with the float model.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_onnx(subject, images, folder / "float.onnx")
        _quantize(subject, folder, len(images))
        return open_session(folder / "int8.onnx", images)


def export_onnx(subject: Subject, images: Tensor, file: Path) -> None:
    """Write the float model to `file` with a fixed batch size, simplified for quantisation."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    raw = file.with_suffix(".raw.onnx")
    torch.onnx.export(
        *(subject.model(), (images,), raw),
        input_names=[_INPUT],
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    quant_pre_process(str(raw), str(file), skip_symbolic_shape=True)


def open_session(file: Path, images: Tensor) -> Engine:
    """Return the engine of an ONNX file, on as many threads as torch has. Its evidence is its optimised graph."""
    import onnxruntime

    optimised = file.with_suffix(".optimised.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = str(optimised)
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    evidence = Evidence.of(products_of_file(optimised))
    feed = {_INPUT: images.numpy()}

    def run() -> Any:
        return session.run(None, feed)[0]

    return Engine(run, lambda: torch.from_numpy(run()).float(), lambda: evidence)


def _quantize(subject: Subject, folder: Path, batch: int) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(subject.batches(batch))

        def get_next(self) -> dict[str, Any] | None:
            images = next(self._batches, None)
            return None if images is None else {_INPUT: images.numpy()}

    quantize_static(
        str(folder / "float.onnx"),
        str(folder / "int8.onnx"),
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm"],
        nodes_to_quantize=_products_with_weights(folder / "float.onnx"),
    )


def _products_with_weights(file: Path) -> list[str]:
    import onnx

    graph = onnx.load(str(file)).graph
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    return [node.name for node in graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in constants]


def products_of_file(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the operator and the dtype of each product in a graph that ONNX Runtime has optimised."""
    import onnx

    for node in onnx.load(str(file), load_external_data=False).graph.node:
        if node.op_type in _INT8_PRODUCTS:
            yield node.op_type, "int8"
        elif node.op_type in _FLOAT_PRODUCTS:
            yield node.op_type, "float32"


ONNX_RUNTIME = Competitor(
    "onnxruntime",
    "ONNX Runtime int8 (QDQ, U8S8, weights per channel), rest float32",
    "int8",
    build_onnx_runtime,
    needs=("onnx", "onnxscript", "onnxruntime"),
    devices=("cpu",),
)
