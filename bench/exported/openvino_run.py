"""A file in OpenVINO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fxquant.benchmark.competitors.openvino_cpu import products_of_model


def run_openvino(file: Path, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Counter[str]]:
    """Return what OpenVINO makes of `inputs` with float32 beside int8, and how many products it runs, by dtype."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = core.compile_model(core.read_model(str(file)), "CPU", settings)
    outputs = compiled([x.numpy() for x in inputs])
    dtypes = Counter(dtype for _, dtype in products_of_model(compiled.get_runtime_model()))
    return [torch.from_numpy(outputs[i].copy()) for i in range(len(compiled.outputs))], dtypes
