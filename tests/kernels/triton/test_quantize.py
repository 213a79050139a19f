"""`quantize` gives the codes of `fxquant.ops.quantize` and `quantize_twin`, all of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.kernels import use_backend
from fxquant.kernels.cpu import Quantizer
from tests.support.triton_interpreter import Kernels
from tests.support.triton_operands import DTYPES, random_quantizer, reference_codes

KINDS = ["signed", "unsigned", "gelu", "softmax"]


@settings(max_examples=16)
@given(
    shape=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(KINDS),
    noise=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_codes_are_those_of_the_reference(
    kernels: Kernels, shape: list[int], dtype: torch.dtype, kind: str, noise: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator).to(dtype)
    quantizer = random_quantizer(generator, kind, shape[-1] if noise else None)
    with use_backend("aten"):
        assert torch.equal(kernels("quantize", x, quantizer), reference_codes(x, quantizer))


@pytest.mark.parametrize("kind", KINDS)
def test_values_next_to_a_boundary(kernels: Kernels, kind: str) -> None:
    """Each quotient lies a rounding away from where the code changes, or on it."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        quantizer = random_quantizer(generator, kind)
        ties = (torch.arange(-300, 300) + 0.5).repeat(3, 1) * quantizer.scale
        x = torch.stack(
            [ties[0], ties[1].nextafter(torch.tensor(torch.inf)), ties[2].nextafter(-torch.tensor(torch.inf))]
        )
        with use_backend("aten"):
            assert torch.equal(kernels("quantize", x, quantizer), reference_codes(x, quantizer))


def test_one_value_and_an_image(kernels: Kernels) -> None:
    quantizer = Quantizer(torch.tensor(0.1), None, None, None, None, -8, 7)
    assert int(kernels("quantize", torch.tensor(0.25), quantizer)) == 2
    image = torch.randn(2, 5, 6, 3).permute(0, 3, 1, 2)
    with use_backend("aten"):
        assert torch.equal(kernels("quantize", image, quantizer), reference_codes(image, quantizer))


def test_newton_steps_divide_as_processors_do() -> None:
    """What kernels on a device compute in place of a division; float64 holds the products of float32 exactly."""
    generator = torch.Generator().manual_seed(0)
    scale = (torch.rand(2000, 1, generator=generator) + 0.1) * 2.0 ** torch.randint(
        -20, 3, (2000, 1), generator=generator
    )
    ties = (torch.arange(-256, 256) + 0.5) * scale
    x = torch.cat(
        [ties, ties.nextafter(torch.tensor(torch.inf)), torch.randn(2000, 512, generator=generator) * scale * 99], 1
    )
    reciprocal = 1 / scale
    quotient = x * reciprocal
    remainder = (x.double() - quotient.double() * scale.double()).float()
    assert torch.equal((quotient.double() + remainder.double() * reciprocal.double()).float(), x / scale)
