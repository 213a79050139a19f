"""ONNX Runtime: int8 is seen in its optimised graph, float is not taken for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from fxquant.benchmark.agreement import compare_outputs
from fxquant.benchmark.competitors.float_torch import FP32
from fxquant.benchmark.competitors.onnx_runtime import ONNX_RUNTIME, export_onnx, open_session
from fxquant.benchmark.subject import Subject

for package in ONNX_RUNTIME.needs:
    pytest.importorskip(package)


@pytest.mark.filterwarnings("ignore")
def test_int8_is_int8_and_agrees(subject: Subject, images: Tensor) -> None:
    engine = ONNX_RUNTIME.build(subject, images)
    evidence = engine.evidence()
    assert evidence.products["int8"] == 5  # the patch embedding and attention stay float
    assert evidence.objection("int8") is None
    assert compare_outputs(engine.output(), FP32.build(subject, images).output()).objection() is None


@pytest.mark.filterwarnings("ignore")
def test_a_float_session_is_not_int8(subject: Subject, images: Tensor, tmp_path: Path) -> None:
    export_onnx(subject, images, tmp_path / "float.onnx")
    engine = open_session(tmp_path / "float.onnx", images)
    engine.run()
    assert str(engine.evidence().objection("int8")).startswith("not int8: 0 of ")
    assert compare_outputs(engine.output(), FP32.build(subject, images).output()).relative_error < 1e-4
