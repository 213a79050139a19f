"""The competitors, one file for each kind. The others are compared with bf16-compile."""

from __future__ import annotations

from fxquant.benchmark.competitor import Competitor
from fxquant.benchmark.competitors.float_torch import BF16, BF16_COMPILE, BF16_COMPILE_MATMUL, FP32, FP32_COMPILE
from fxquant.benchmark.competitors.fxquant_int8 import FXQUANT, FXQUANT_BF16, FXQUANT_BF16_COMPILE, FXQUANT_COMPILE
from fxquant.benchmark.competitors.onnx_runtime import ONNX_RUNTIME
from fxquant.benchmark.competitors.openvino_cpu import OPENVINO_BF16, OPENVINO_INT8, OPENVINO_INT8_BF16
from fxquant.benchmark.competitors.pt2e import PT2E
from fxquant.benchmark.competitors.torchao_dynamic import TORCHAO_DYNAMIC

BASELINE = BF16_COMPILE

COMPETITORS: tuple[Competitor, ...] = (
    FP32,
    FP32_COMPILE,
    BF16,
    BF16_COMPILE,
    BF16_COMPILE_MATMUL,
    FXQUANT,
    FXQUANT_COMPILE,
    FXQUANT_BF16,
    FXQUANT_BF16_COMPILE,
    PT2E,
    TORCHAO_DYNAMIC,
    ONNX_RUNTIME,
    OPENVINO_BF16,
    OPENVINO_INT8,
    OPENVINO_INT8_BF16,
)
