"""The float forms, and attention as products."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fxquant.benchmark.agreement import compare_outputs
from fxquant.benchmark.competitors.float_torch import BF16_COMPILE_MATMUL, FP32, build_float, open_attention
from fxquant.benchmark.subject import Subject
from fxquant.errors import InputError


@pytest.mark.usefixtures("eager")
def test_open_attention_computes_the_same_with_two_products(subject: Subject, images: Tensor) -> None:
    engine = BF16_COMPILE_MATMUL.build(subject, images)
    engine.run()
    assert engine.evidence().products == {"bfloat16": 8}
    assert compare_outputs(engine.output(), FP32.build(subject, images).output()).objection() is None


def test_where_nothing_is_fused_it_says_so() -> None:
    with pytest.raises(InputError, match="no fused attention to open"):
        open_attention(nn.Linear(2, 2))


def test_it_refuses_to_pass_for_another_precision(subject: Subject, images: Tensor) -> None:
    engine = build_float(subject, images, dtype=torch.float32)
    assert engine.evidence().objection("bfloat16") is not None
