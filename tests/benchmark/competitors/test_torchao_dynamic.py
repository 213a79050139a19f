"""torchao's dynamic int8: its linear layers run on integers, those of the model it started from do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fxquant.benchmark.agreement import compare_outputs
from fxquant.benchmark.competitors.float_torch import FP32, build_float
from fxquant.benchmark.competitors.torchao_dynamic import TORCHAO_DYNAMIC
from fxquant.benchmark.subject import Subject

pytest.importorskip("torchao")


@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore")
def test_int8_is_int8_and_agrees(subject: Subject, images: Tensor) -> None:
    engine = TORCHAO_DYNAMIC.build(subject, images)
    engine.run()
    assert engine.evidence().products["int8"] == 5
    assert engine.evidence().objection("int8") is None
    assert compare_outputs(engine.output(), FP32.build(subject, images).output()).objection() is None


def test_the_float_model_is_not_int8(subject: Subject, images: Tensor) -> None:
    engine = build_float(subject, images, dtype=torch.bfloat16)
    assert str(engine.evidence().objection("int8")).startswith("not int8: 0 of 7 products")
