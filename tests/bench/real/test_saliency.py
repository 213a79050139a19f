"""The saliency model is that of the ONNX file."""

from __future__ import annotations

import pytest
import torch

from bench.real.photographs import load_photographs
from bench.real.saliency import SaliencyDecoder, correlation_with_onnx
from tests.bench.real.needs import needs_real


@pytest.mark.long
@needs_real
def test_maps_are_those_of_onnx_runtime() -> None:
    assert correlation_with_onnx(load_photographs("held-out", 224, 5)) > 0.999


def test_the_decoder_enlarges_eight_times() -> None:
    with torch.no_grad():
        assert SaliencyDecoder().eval()(torch.zeros(1, 384, 2, 3)).shape == (1, 1, 16, 24)
