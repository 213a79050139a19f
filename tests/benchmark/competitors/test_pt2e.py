"""PT2E: int8 once it is lowered and compiled with frozen weights, float before."""

from __future__ import annotations

import pytest
from torch import Tensor

from fxquant.benchmark.agreement import compare_outputs
from fxquant.benchmark.competitors.float_torch import FP32
from fxquant.benchmark.competitors.pt2e import PT2E, quantize_pt2e
from fxquant.benchmark.subject import Subject
from fxquant.benchmark.torch_engine import torch_engine
from fxquant.ops.onednn_linear import is_available

pytest.importorskip("torchao")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.skipif(not is_available(), reason="x86 with VNNI only")]


def test_int8_is_int8_and_agrees(subject: Subject, images: Tensor) -> None:
    engine = PT2E.build(subject, images)
    engine.run()
    assert engine.evidence().objection("int8") is None
    assert compare_outputs(engine.output(), FP32.build(subject, images).output()).objection() is None


def test_what_was_not_lowered_is_not_int8(subject: Subject, images: Tensor) -> None:
    engine = torch_engine(quantize_pt2e(subject, images), images)
    engine.run()
    assert str(engine.evidence().objection("int8")).startswith("not int8: 0 of 7 products")
