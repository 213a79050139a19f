"""OpenVINO: precisions are read from the graph that it compiled."""

from __future__ import annotations

import pytest
from torch import Tensor

from fxquant.benchmark.agreement import compare_outputs
from fxquant.benchmark.competitors.float_torch import FP32
from fxquant.benchmark.competitors.openvino_cpu import OPENVINO_INT8, build_openvino
from fxquant.benchmark.subject import Subject

pytest.importorskip("openvino")
pytestmark = pytest.mark.filterwarnings("ignore")


def test_int8_is_int8_and_agrees(subject: Subject, images: Tensor) -> None:
    pytest.importorskip("nncf")
    engine = OPENVINO_INT8.build(subject, images)
    engine.run()
    assert engine.evidence().objection("int8") is None
    assert compare_outputs(engine.output(), FP32.build(subject, images).output()).objection() is None


def test_float32_is_neither_int8_nor_bfloat16(subject: Subject, images: Tensor) -> None:
    engine = build_openvino(subject, images, rest="f32")
    engine.run()
    evidence = engine.evidence()
    assert evidence.total == evidence.products["float32"] > 0
    assert evidence.objection("int8") is not None
    assert evidence.objection("bfloat16") is not None
    assert compare_outputs(engine.output(), FP32.build(subject, images).output()).relative_error < 1e-4
