"""`layer_norm_quantize` gives the codes of a layer norm."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.tiers import keep_quick
from tests.support.triton_interpreter import Kernels
from tests.support.triton_operands import DTYPES, assert_codes_of, random_quantizer


@settings(max_examples=12)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(2, 150),
    dtype=st.sampled_from(DTYPES),
    affine=st.sampled_from(["none", "weight", "both"]),
    kind=st.sampled_from(["signed", "unsigned"]),
    noise=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_codes_are_those_of_separate_operators(
    kernels: Kernels, rows: int, columns: int, dtype: torch.dtype, affine: str, kind: str, noise: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (3 * torch.randn(2, rows, columns, generator=generator) + 1).to(dtype)
    weight = None if affine == "none" else torch.randn(columns, generator=generator).to(dtype)
    bias = torch.randn(columns, generator=generator).to(dtype) if affine == "both" else None
    quantizer = random_quantizer(generator, kind, columns if noise else None)
    found = kernels("layer_norm_quantize", x, weight, bias, 1e-6, quantizer)
    wide_weight, wide_bias = (None if t is None else t.double() for t in (weight, bias))
    values = F.layer_norm(x.double(), (columns,), wide_weight, wide_bias, 1e-6)
    assert_codes_of(found, values, torch.float32, quantizer, 2**-19)


@pytest.mark.parametrize("dtype", keep_quick(DTYPES, torch.bfloat16))
def test_rows_need_not_lie_behind_one_another(kernels: Kernels, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    quantizer = random_quantizer(generator, "unsigned")
    x = torch.randn(6, 40, 10, generator=generator).to(dtype)
    for view in (x.transpose(1, 2), x[:, :, ::2], x[::2], x[:, 3:7]):
        found = kernels("layer_norm_quantize", view, None, None, 1e-5, quantizer)
        values = F.layer_norm(view.double(), view.shape[-1:], None, None, 1e-5)
        assert_codes_of(found, values, torch.float32, quantizer, 2**-19)
