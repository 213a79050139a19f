"""OpenVINO on the CPU: bfloat16, or int8 quantised by NNCF where the rest is float32 or bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fxquant.benchmark.competitor import Competitor, Engine, Evidence
from fxquant.benchmark.subject import Subject

_PRODUCTS = ("FullyConnected", "MatMul", "Convolution", "ScaledDotProductAttention", "MHA")
_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "i8": "int8", "u8": "int8"}


def build_openvino(subject: Subject, images: Tensor, *, rest: str, int8: bool = False) -> Engine:
    """
    Return the model compiled by OpenVINO for a fixed batch, on as many threads as torch has.

    int8: whether NNCF quantises it, for transformers and with its default options.
    rest: the dtype of what is not int8, "f32" or "bf16".
    """
    import openvino

    model = openvino.convert_model(subject.model(), example_input=images)
    if int8:
        model = _quantize(model, subject, len(images))
    model.reshape(list(images.shape))
    settings = {
        "INFERENCE_PRECISION_HINT": rest,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    array = images.numpy()

    def run() -> Any:
        return request.infer([array], share_inputs=True, share_outputs=True)[0]

    return Engine(
        run,
        lambda: torch.from_numpy(run().copy()).float(),
        lambda: Evidence.of(products_of_model(compiled.get_runtime_model())),
    )


def _quantize(model: Any, subject: Subject, batch: int) -> Any:
    import nncf

    batches = [images.numpy() for images in subject.batches(batch)]
    return nncf.quantize(model, nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches))


def products_of_model(runtime_model: Any) -> Iterator[tuple[str, str]]:
    """Yield the products of the compiled graph. Attention that became one generated kernel is not among them."""
    for operation in runtime_model.get_ops():
        info = operation.get_rt_info()
        if "layerType" in info and info["layerType"].astype(str) in _PRODUCTS:
            dtype = info["runtimePrecision"].astype(str)
            yield info["primitiveType"].astype(str), _DTYPES.get(dtype, dtype)


OPENVINO_BF16 = Competitor(
    "openvino-bf16",
    "OpenVINO bfloat16",
    "bfloat16",
    partial(build_openvino, rest="bf16"),
    needs=("openvino",),
    devices=("cpu",),
)
OPENVINO_INT8 = Competitor(
    "openvino-int8",
    "OpenVINO int8 by NNCF, rest float32",
    "int8",
    partial(build_openvino, rest="f32", int8=True),
    needs=("openvino", "nncf"),
    devices=("cpu",),
)
OPENVINO_INT8_BF16 = Competitor(
    "openvino-int8-bf16",
    "OpenVINO int8 by NNCF, rest bfloat16",
    "int8",
    partial(build_openvino, rest="bf16", int8=True),
    needs=("openvino", "nncf"),
    devices=("cpu",),
)
