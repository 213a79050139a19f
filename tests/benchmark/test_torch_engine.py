"""What torch ran, as its profiler sees it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fxquant.benchmark.subject import Subject
from fxquant.benchmark.torch_engine import torch_engine
from fxquant.errors import InputError


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float_products_are_counted_once_each_in_their_dtype(
    subject: Subject, images: Tensor, dtype: torch.dtype
) -> None:
    evidence = torch_engine(subject.model(dtype), images.to(dtype)).evidence()
    assert evidence.products == {str(dtype).removeprefix("torch."): 7}  # patches, qkv, attention, proj, fc1, fc2, head
    assert evidence.objection("int8") is not None


def test_integer_products_are_seen(subject: Subject, images: Tensor) -> None:
    evidence = torch_engine(subject.quantized(), images).evidence()
    assert evidence.products["int8"] == 6
    assert evidence.objection("int8") is None


def test_output_is_float32_on_the_cpu(subject: Subject, images: Tensor) -> None:
    output = torch_engine(subject.model(torch.bfloat16), images.bfloat16()).output()
    assert output.dtype is torch.float32
    assert output.shape == (2, 10)
    assert not output.requires_grad


def test_a_model_must_return_one_tensor(images: Tensor) -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(InputError, match="returns one tensor, this one returns a tuple"):
        torch_engine(Pair(), images).output()
