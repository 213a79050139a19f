"""Every test of a kernel runs under Triton's interpreter and, where there is one, on a CUDA device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.support.triton_interpreter import Kernels

pytest.importorskip("triton")

DEVICES = [
    pytest.param("cpu", id="interpreted"),
    pytest.param(
        "cuda",
        id="cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]


@pytest.fixture(scope="session", params=DEVICES)
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    """Return what runs the kernels."""
    made = Kernels(request.param)
    yield made
    made.close()
