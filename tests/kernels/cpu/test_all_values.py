"""Quantisers, GELU and exponents over all the values that there are: 2^16 of bfloat16, and 2^32 of float32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.kernels import cpu, use_backend, use_isa
from fxquant.kernels.cpu.isa import isas_here
from fxquant.ops import quantize, quantize_twin
from tests.support.needs_cpu_kernels import needs_kernels

pytestmark = needs_kernels
CHUNK = 2**22
QUANTIZERS = [
    cpu.Quantizer(torch.tensor(scale), zero, None, None, None, qmin, qmax)
    for scale in (0.0371, 1 / 3, 2.0**-7, 1e-7)
    for zero, qmin, qmax in ((None, -128, 127), (torch.tensor(37, dtype=torch.int32), 0, 255), (None, -8, 7))
]
TWINS = [
    cpu.Quantizer(torch.tensor(0.05), None, torch.tensor(low), torch.tensor(0.01), None, -127, 127)
    for low in (1e-3, -1e-3)
]


def values_of_bfloat16() -> Tensor:
    """Return all numbers of bfloat16, infinite ones too."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    return x[~x.isnan()]


def codes_of(x: Tensor, q: cpu.Quantizer) -> Tensor:
    with use_backend("aten"):
        if q.low is not None and q.split is not None:
            return quantize_twin(x, q.scale, q.low, q.split, q.qmin, q.qmax, q.noise)
        return quantize(x, q.scale, q.zero_point, q.qmin, q.qmax, None, q.noise)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_of_every_bfloat16(dtype: torch.dtype) -> None:
    x = values_of_bfloat16().to(dtype)
    for quantizer in (*QUANTIZERS, *TWINS):
        assert torch.equal(cpu.quantize(x, quantizer), codes_of(x, quantizer))


def test_gelu_of_every_bfloat16() -> None:
    """A product of zeros gives the bias, which is any value."""
    x = values_of_bfloat16().float()
    x = x[x.isfinite()]
    codes, weight = torch.zeros(1, 4, dtype=torch.int8), torch.zeros(len(x), 4, dtype=torch.int8)
    for approximate in ("none", "tanh"):
        found = cpu.linear(codes, weight, torch.ones(len(x)), x, torch.float32, gelu=approximate)[0]
        exact = F.gelu(x.double(), approximate=approximate)
        assert bool(((found - exact).abs() <= 6.5e-7 + exact.abs() * 2.0**-23).all())


def test_softmax_of_every_difference_of_bfloat16() -> None:
    """Of two keys, the scores are 0 and x: the probability of the second is 1 / (1 + e^-x)."""
    x = values_of_bfloat16().float()
    x = x[x.isfinite() & (x <= 0)]
    queries, keys = torch.zeros(1, 1, len(x), 16), torch.zeros(1, 1, 2, 16)
    values = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1).expand(1, 1, 2, 16)
    bias = torch.stack((torch.zeros_like(x), x), 1)[None]
    found = cpu.attention_quantize(queries, keys, values, 1.0, bias, None, None)[0, :, 0]
    exact = x.double().sigmoid()
    # The polynomial, and the rounding of the exponent, which is in units of its last place.
    error = (3e-7 + 2.0**-23 * x.double().abs()) * exact + 1e-37
    assert bool(((found - exact).abs() <= error).all())


@pytest.mark.long
@pytest.mark.parametrize("name", [isa.name for isa in isas_here() if isa.name == "avx2" or isa is isas_here()[0]])
def test_codes_of_every_float32(name: str) -> None:
    quantizer = QUANTIZERS[1]
    with use_isa(name):
        for start in range(-(2**31), 2**31, CHUNK):
            x = torch.arange(start, start + CHUNK, dtype=torch.int64).to(torch.int32).view(torch.float32)
            x = torch.where(x.isnan(), 0.0, x)
            assert torch.equal(cpu.quantize(x, quantizer), codes_of(x, quantizer))
