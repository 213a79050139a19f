"""fxquant's own forms pass the checks that the others have to pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fxquant.benchmark.agreement import compare_outputs
from fxquant.benchmark.competitors.float_torch import FP32
from fxquant.benchmark.competitors.fxquant_int8 import build_fxquant
from fxquant.benchmark.subject import Subject


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eager(subject: Subject, images: Tensor, dtype: torch.dtype) -> None:
    engine = build_fxquant(subject, images, dtype=dtype)
    engine.run()
    assert engine.evidence().objection("int8") is None
    assert compare_outputs(engine.output(), FP32.build(subject, images).output()).objection() is None


def test_compiled(subject: Subject, images: Tensor) -> None:
    engine = build_fxquant(subject, images, dtype=torch.float32, compiled=True)
    engine.run()
    evidence = engine.evidence()
    assert evidence.objection("int8") is None
    assert compare_outputs(engine.output(), FP32.build(subject, images).output()).objection() is None
