"""Images of the size that a model declares."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from fxquant.tracing.made_example import made_example


class Sized(nn.Module):
    """Takes images of one size alone."""

    def __init__(self, channels: int = 3, side: int = 8, **declared: Any) -> None:
        super().__init__()
        self.conv, self.side, self.calls = nn.Conv2d(channels, 2, 4, 4), side, 0
        for name, value in declared.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if x.shape[2:] != (self.side, self.side):
            raise ValueError("another size")
        y: Tensor = self.conv(x)
        return y


@pytest.mark.parametrize(
    "declared",
    [
        {"image_size": 8},
        {"img_size": (8, 8)},
        {"config": SimpleNamespace(image_size=8)},
        {"pretrained_cfg": {"input_size": (3, 8, 8)}},
        {"side": 224},
    ],
)
def test_where_the_size_is_declared(declared: dict[str, Any]) -> None:
    model = Sized(**declared).eval()
    image = made_example(model)
    assert image is not None
    assert image.shape == (1, 3, model.side, model.side)
    assert model.calls == 0, "the model is left as it was"
    again = made_example(model)
    assert again is not None
    assert torch.equal(again, image)


def test_channels_and_dtype_are_those_of_the_model() -> None:
    image = made_example(Sized(channels=1, image_size=8).bfloat16().eval())
    assert image is not None
    assert (image.shape, image.dtype) == ((1, 1, 8, 8), torch.bfloat16)


def test_none_is_found() -> None:
    assert made_example(Sized(side=9).eval()) is None
    assert made_example(nn.ReLU()) is None


def test_the_size_given_to_timm_is_found() -> None:
    image = made_example(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1).eval())
    assert image is not None
    assert image.shape == (1, 3, 32, 32)
